"""Frontend, two processing hosts and a database server as the processes that a deployment has, over ZEO."""
# SPDX-License-Identifier: ZPL-2.1
import collections
import contextlib
import signal
import unittest
import xmlrpc.client
from concurrent.futures import ThreadPoolExecutor

from deployment import DeploymentCase


# `note` is long enough for both hosts to get some; `meet` lasts until the test wants it to end.
TASKS = """\
import os
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def append(name, number):
    # One write to a file that is opened for appending: lines of many processes do not mix.
    descriptor = os.open(os.path.join(HERE, name), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f'{number} {os.getpid()}\\n'.encode())
    os.close(descriptor)


def note(input):
    time.sleep(0.02)
    append('notes', input)
    return input * 2


def meet(input):
    append('begun', input)
    while not os.path.exists(os.path.join(HERE, 'go')):
        time.sleep(0.01)
    append('notes', input)
    return input * 2
"""


class ZEOTest(DeploymentCase):

    level = 2

    handlers = {'note': 'note', 'meet': 'meet'}
    tasks = TASKS

    def call(self, method, *arguments):
        """Call a method of the service over a connection of its own."""
        with xmlrpc.client.ServerProxy(self.url, allow_none=True) as server:
            return getattr(server, method)(*arguments)

    def add(self, task, numbers):
        """Add a job for each of the numbers, from several threads; return id -> number."""
        numbers = list(numbers)
        with ThreadPoolExecutor(5) as threads:
            return dict(zip(threads.map(lambda number: self.call('add', task, number), numbers), numbers))

    def waitForJobs(self, jobs):
        """Wait until all jobs have completed, and check what they gave."""
        with xmlrpc.client.ServerProxy(self.url, allow_none=True) as server:
            for jobid, number in jobs.items():
                self.waitUntil(lambda: server.getStatus(jobid) in ('completed', 'error', 'cancelled'), f'job {jobid}')
                self.assertEqual((server.getStatus(jobid), server.getError(jobid)), ('completed', 'None'))
                self.assertEqual(server.getResult(jobid), number * 2)

    def lines(self, name):
        """Return what the tasks have appended to a file, a list of pairs of number and process id."""
        with contextlib.suppress(FileNotFoundError), open(self.directory / name) as file:
            return [tuple(map(int, line.split())) for line in file]
        return []

    def test_every_job_runs_once_and_both_hosts_run_some(self):
        jobs = self.add('meet', range(4))       # two threads of each of two hosts
        begun = self.waitUntil(lambda: len(self.lines('begun')) == 4 and self.lines('begun'), 'four running jobs')
        self.write('go', '')
        jobs.update(self.add('note', range(4, 100)))
        self.waitForJobs(jobs)
        notes = self.lines('notes')
        self.assertEqual(sorted(number for number, pid in notes), list(range(100)))
        # Not the frontend, and no third process: exactly the two hosts.
        hosts = [host.pid for host in self.hosts]
        self.assertEqual(collections.Counter(pid for number, pid in begun), dict.fromkeys(hosts, 2))
        self.assertLessEqual({pid for number, pid in notes}, set(hosts))
        self.assertIs(self.call('hasJobsWaiting'), False)

        for host in self.hosts:
            self.assertEqual(host.end(signal.SIGTERM), 0, ''.join(host.said))
        self.assertEqual(self.frontend.end(signal.SIGTERM), 0, ''.join(self.frontend.said))

    def test_the_jobs_of_a_killed_host_complete_on_the_other(self):
        jobs = self.add('meet', range(4))       # two threads of each of two hosts
        begun = self.waitUntil(lambda: len(self.lines('begun')) == 4 and self.lines('begun'), 'four running jobs')
        victim, survivor = self.hosts
        self.assertEqual(collections.Counter(pid for number, pid in begun), {victim.pid: 2, survivor.pid: 2})
        jobs.update(self.add('note', range(4, 24)))     # waiting for one of the hosts, or claimed by it already

        self.assertEqual(victim.end(signal.SIGKILL), -signal.SIGKILL)
        self.write('go', '')

        self.waitForJobs(jobs)
        self.assertEqual(sorted(self.lines('notes')), [(number, survivor.pid) for number in range(24)])
        # What the victim had begun, and only that, was begun once more.
        lost = sorted(number for number, pid in begun if pid == victim.pid)
        self.assertEqual(sorted(self.lines('begun')[4:]), [(number, survivor.pid) for number in lost])
        self.assertEqual(survivor.end(signal.SIGTERM), 0, ''.join(survivor.said))


if __name__ == '__main__':
    unittest.main()
