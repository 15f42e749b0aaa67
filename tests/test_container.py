"""The image that `init` describes: built and run by Podman, where that can run here; CI does not install it.

In place of the image `python:3.11-slim` stands one with nothing in it: programs and libraries are those of this
machine, mounted where they are here.
"""
# SPDX-License-Identifier: ZPL-2.1
import json
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import unittest

import lovely.remotetask
from lovely.remotetask.client import Client
from lovely.remotetask.testing import PATIENCE
from test_init import freePorts
from test_packaging import built
from waits import waitUntil


DOCUMENT = pathlib.Path(lovely.remotetask.__file__).parent / 'documents' / 'deploying.txt'

#: In place of `python:3.11-slim`.
BASE = """\
FROM scratch
ADD base.tar /
RUN {python} -m venv /opt/venv
COPY packages.pth /opt/venv/lib/python{version}/site-packages/
COPY *.whl /opt/wheels/
ENV PATH=/opt/venv/bin:/usr/sbin:/usr/bin PIP_NO_INDEX=1 PIP_NO_DEPS=1 PIP_FIND_LINKS=/opt/wheels
"""

#: Runs until a file is there, which the test writes.
TASKS = """\
import time
from lovely.remotetask.task import task

@task()
def slow(service, jobid, input):
    service.setProgress(jobid, 0.5)
    time.sleep(input)
    return 'done'
"""


def commands(site):
    """Return the commands of deploying.txt, as lists of words, for a site in this directory."""
    block = re.search('::\n\n((?:    .*\n)+)', DOCUMENT.read_text().partition('\nIn a container\n')[2])[1]
    text = block.replace('\\\n', '').replace('DIR', str(site))
    return [line.split() for line in text.splitlines()]


def packages():
    """Return the places of packages that this Python has beside its own."""
    places = map(os.path.realpath, sys.path)
    return sorted({place for place in places if place.endswith(('.egg', 'site-packages'))})


def mounts():
    """Return the directories of this machine that a container needs for this Python and its packages."""
    parents = {os.path.dirname(place) if place.endswith('.egg') else place for place in packages()}
    return sorted({'/usr', *(place for place in (os.path.realpath(sys.base_prefix), *parents)
                             if not place.startswith('/usr/'))})


@unittest.skipUnless(shutil.which('podman') and os.getuid() == 0, 'needs Podman, and root')
class TestContainer(unittest.TestCase):

    level = 2

    def setUp(self):
        self.directory = pathlib.Path(os.path.realpath(self.enterContext(tempfile.TemporaryDirectory())))
        self.inside = self.withoutUnified() if os.path.ismount('/sys/fs/cgroup/unified') else []
        self.addCleanup(self.podman, 'rm', '--force', '--all', '--time', '0', check=False)
        limits = [f'--ulimit={name}={number}:{number}' for name, number in (
            ('nofile', resource.getrlimit(resource.RLIMIT_NOFILE)[1]), ('nproc', 1000))]
        self.volumes = [f'--volume={place}:{place}:ro' for place in mounts()]
        self.options = ['--cgroups=disabled', *limits, *self.volumes]

    def withoutUnified(self):
        """Return the words that run a command where one version of cgroups is mounted: crun refuses to use both."""
        holder = subprocess.Popen(['unshare', '--mount', 'sh', '-c', 'umount /sys/fs/cgroup/unified; echo; exec cat'],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(holder.communicate)
        holder.stdout.readline()
        return ['nsenter', '--mount', '--target', str(holder.pid)]

    def podman(self, *arguments, check=True):
        """Run Podman with a storage of its own; return what it prints."""
        storage = ['--root', str(self.directory / 'storage'), '--runroot', str(self.directory / 'run')]
        command = ['podman', *storage, '--storage-driver=overlay', '--cgroup-manager=cgroupfs', *map(str, arguments)]
        done = subprocess.run([*self.inside, *command], text=True, capture_output=True, timeout=PATIENCE * 4)
        if check and done.returncode:
            raise AssertionError(f'{arguments}: {done.stdout}{done.stderr}')
        return done.stdout

    def makeBase(self):
        """Make the image that stands for that one; skip the test where Podman cannot run containers."""
        context = self.directory / 'base'
        root = context / 'root'
        for name in 'usr', 'etc', 'tmp', 'opt', 'var/tmp', 'proc', 'dev', 'sys', 'run':
            (root / name).mkdir(parents=True)
        for name in 'bin', 'sbin', 'lib', 'lib64':
            (root / name).symlink_to(f'usr/{name}')
        (root / 'tmp').chmod(0o1777)
        (root / 'etc' / 'passwd').write_text('root:x:0:0:root:/root:/bin/sh\n')
        (root / 'etc' / 'group').write_text('root:x:0:\n')
        shutil.make_archive(str(context / 'base'), 'tar', root)
        version = '{}.{}'.format(*sys.version_info)
        python = os.path.join(os.path.realpath(sys.base_prefix), 'bin', f'python{version}')
        shutil.copy(built().wheel, context)
        (context / 'packages.pth').write_text('\n'.join(packages()))
        (context / 'Dockerfile').write_text(BASE.format(python=python, version=version))
        try:
            self.build('base', context)
            self.podman('run', '--rm', '--network=host', *self.options, 'base', 'true')
        except AssertionError as error:
            self.skipTest(f'Podman cannot run containers here: {error}')

    def build(self, tag, context, *options):
        self.podman('build', '--isolation=chroot', '--format=docker', '--pull=never', '--layers=false', *self.volumes,
                    *options, '--tag', f'localhost/{tag}', context)

    def inspect(self, field):
        return json.loads(self.podman('inspect', '--format', '{{json .%s}}' % field, 'films'))

    def test_it_stops_in_order_and_keeps_all_jobs(self):
        self.makeBase()
        site, port = self.directory / 'films', freePorts()
        subprocess.run([sys.executable, '-m', 'lovely.remotetask', 'init', site, '--port', str(port)], check=True,
                       stdout=subprocess.DEVNULL, env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})
        (site / 'tasks.py').write_text(TASKS)
        self.build('films', site, '--build-arg=BASE=localhost/base')
        (_, build, *_), (_, run, *options), (_, *stop) = commands(site)
        self.assertEqual((build, run), ('build', 'run'))
        self.podman('run', *self.options, *options)
        with Client(f'http://127.0.0.1:{port}/', PATIENCE) as client:
            self.untilReady(1)
            self.assertEqual(client.wait(client.add('slow', 0), PATIENCE), 'done')
            self.podman('healthcheck', 'run', 'films')
            said = self.podman('exec', 'films', 'sh', '-c', 'id -un; cat /proc/1/comm; touch /x tasks.py || echo no')
            self.assertEqual(said.split(), ['remotetask', 'remotetask', 'no'])
            jobids = [client.add('slow', 2.0), client.add('slow', 0, startLater=True)]
            self.waitUntil(lambda: client.getProgress(jobids[0]))
            self.podman(*stop)
            self.assertEqual(self.inspect('State.ExitCode'), 0)
            self.assertIn('stopped; 0 jobs given back', self.podman('logs', 'films'))
            self.podman('start', 'films')
            self.untilReady(2)
            self.assertEqual([client.getStatus(jobid) for jobid in jobids], ['completed', 'start later'])

    def untilReady(self, times):
        """Wait until the server has been started so many times."""
        self.waitUntil(lambda: self.podman('logs', 'films').split().count('ready') == times)

    def waitUntil(self, condition):
        waitUntil(condition, said=lambda: self.podman('logs', 'films', check=False))


if __name__ == '__main__':
    unittest.main()
