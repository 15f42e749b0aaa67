"""Machines of a test: network namespaces with an address each, and a router between them that can lose what they send.

Nothing outside of these namespaces is touched, and no name or address is shared with another run.
"""
# SPDX-License-Identifier: ZPL-2.1
import ctypes
import itertools
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import unittest
from concurrent.futures import ThreadPoolExecutor


_CLONE_NEWNET = 0x40000000

_numbers = itertools.count(1)

# The machine of a thread is its `machine`.
_here = threading.local()


class ImpossibleHere(Exception):
    """The system does not allow a network of its own."""


def _ip(*arguments):
    """Run the program `ip`; raise `ImpossibleHere` with what it says when it fails."""
    ended = subprocess.run(['ip', *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if ended.returncode:
        raise ImpossibleHere(f'ip {" ".join(arguments)}: {ended.stdout.strip()}')


class Machine:
    """A network namespace with an address.  Raise `ImpossibleHere`.

    name -- a short text.
    namespace -- its name for the program `ip`.
    address -- a text.
    """

    def __init__(self, name, namespace, address):
        self.name, self.namespace, self.address = name, namespace, address
        self._threads = ThreadPoolExecutor(1, f'machine-{name}')
        self._threads.submit(self._enter).result()

    def _enter(self):
        """Have this thread, and what it starts from now on, use the namespace."""
        _here.machine = self
        descriptor = os.open(f'/run/netns/{self.namespace}', os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
                raise ImpossibleHere(f'there is no way into a namespace: {os.strerror(ctypes.get_errno())}')
        finally:
            os.close(descriptor)

    def run(self, function, *arguments, **options):
        """Call a function on this machine and return what it returns.

        The processes and threads that it starts, and the sockets that it makes, belong to this machine, too.
        """
        if getattr(_here, 'machine', None) is self:
            return function(*arguments, **options)
        return self._threads.submit(function, *arguments, **options).result()

    def listeners(self):
        """Return the lines of the program `ss` for the TCP ports where somebody listens, a list."""
        return self._sockets('-Hltn')

    def peers(self):
        """Return the addresses of those that TCP connections are open to, a set."""
        return {line.split()[4].rpartition(':')[0] for line in self._sockets('-Htn')}

    def _sockets(self, *options):
        return self.run(subprocess.run, ['ss', *options], text=True, stdout=subprocess.PIPE).stdout.splitlines()

    def close(self):
        """Let go of its thread."""
        self._threads.shutdown()


class Network:
    """A router with machines around it; `network` makes one and cleans up behind it."""

    def __init__(self):
        self._prefix = f'remotetask-{os.getpid()}-{next(_numbers)}'
        self._namespaces, self._machines, self._rules, self._carriers = [], [], [], []
        self._router = None

    def start(self):
        """Make the router.  Raise `ImpossibleHere`."""
        self._router = self._namespace('router')
        _ip('netns', 'exec', self._router, 'sh', '-c', 'echo 1 > /proc/sys/net/ipv4/ip_forward')

    def _namespace(self, name):
        namespace = f'{self._prefix}-{name}'
        _ip('netns', 'add', namespace)
        self._namespaces.append(namespace)
        _ip('-n', namespace, 'link', 'set', 'lo', 'up')
        return namespace

    def machine(self, name):
        """Return a new `Machine`, with a cable to the router.

        Raise `ImpossibleHere`.
        """
        namespace, number = self._namespace(name), len(self._machines) + 1
        port, gateway, address = f'port{number}', f'10.77.{number}.1', f'10.77.{number}.2'
        _ip('link', 'add', 'name', port, 'netns', self._router, 'type', 'veth',
            'peer', 'name', 'cable', 'netns', namespace)
        for where, device, own in (self._router, port, gateway), (namespace, 'cable', address):
            _ip('-n', where, 'address', 'add', f'{own}/24', 'dev', device)
            _ip('-n', where, 'link', 'set', device, 'up')
        _ip('-n', namespace, 'route', 'add', '10.77.0.0/16', 'via', gateway)
        self._machines.append(machine := Machine(name, namespace, address))
        return machine

    def hide(self, machine):
        """Put a machine behind a firewall: others see the router's address, and cannot begin a connection to it.

        Raise `ImpossibleHere`.
        """
        if shutil.which('iptables') is None:
            raise ImpossibleHere('there is no program iptables')
        for rule in (['-t', 'nat', '-A', 'POSTROUTING', '-s', machine.address, '-j', 'MASQUERADE'],
                     ['-A', 'FORWARD', '-d', machine.address, '-m', 'state', '--state', 'NEW', '-j', 'DROP']):
            _ip('netns', 'exec', self._router, 'iptables', *rule)

    def lose(self, sender, receiver):
        """Lose all that one machine sends to another, and tell nobody."""
        self._rule(sender, receiver, 'blackhole')

    def _rule(self, sender, receiver, *action):
        rule = ['from', sender.address, 'to', receiver.address, *action]
        _ip('-n', self._router, 'rule', 'add', *rule)
        self._rules.append(rule)

    def separate(self, one, other, seconds, loss=0.0):
        """Put a distance between two machines, for those packets that are sent from now on.

        seconds -- of a round trip, half of it in each direction.
        loss -- the share of the packets that are lost, 0 to 1.

        Raise `ImpossibleHere`.
        """
        number = 100 + len(self._carriers)
        device = f'far{number}'
        carrier = subprocess.Popen(
            ['ip', 'netns', 'exec', self._router, sys.executable, pathlib.Path(__file__).with_name('distance.py'),
             device, str(seconds / 2), str(loss), str(number)], text=True, stdout=subprocess.PIPE)
        self._carriers.append(carrier)
        if carrier.stdout.readline() != 'ready\n':
            raise ImpossibleHere('there is no TUN device')
        _ip('-n', self._router, 'link', 'set', device, 'up')
        _ip('-n', self._router, 'route', 'add', 'default', 'dev', device, 'table', str(number))
        for sender, receiver in (one, other), (other, one):
            # What comes back from the device is routed on as usual.
            self._rule(sender, receiver, 'iif', self._port(sender), 'lookup', str(number))

    def _port(self, machine):
        return f'port{self._machines.index(machine) + 1}'

    def cut(self, one, *others):
        """Lose all between a machine and the others, in both directions.

        others -- machines; default: all.
        """
        for other in others or [machine for machine in self._machines if machine is not one]:
            self.lose(one, other)
            self.lose(other, one)

    def heal(self):
        """Lose nothing any more, and nothing is far away."""
        while self._rules:
            _ip('-n', self._router, 'rule', 'delete', *self._rules.pop())

    def close(self):
        """Remove everything.  Processes that still run on a machine keep that, without a cable."""
        for carrier in self._carriers:
            carrier.kill()
            carrier.communicate()
        for machine in self._machines:
            machine.close()
        for namespace in reversed(self._namespaces):
            subprocess.run(['ip', 'netns', 'delete', namespace], stderr=subprocess.DEVNULL)


def network(test, *names):
    """Return a list: a new `Network`, and a `Machine` for each of the names.  It is gone when the test has ended.

    test -- a `unittest.TestCase`; it is skipped where there can be no network.
    """
    if os.getuid() or shutil.which('ip') is None:
        raise unittest.SkipTest('network namespaces need root and the programs ip and ss (package iproute2)')
    made = Network()
    test.addCleanup(made.close)
    try:
        made.start()
        return [made, *(made.machine(name) for name in names)]
    except ImpossibleHere as reason:
        raise unittest.SkipTest(f'network namespaces are not possible here: {reason}') from reason
