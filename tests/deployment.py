"""A deployment for tests: a site with tasks, configuration files, and real processes over a database server."""
# SPDX-License-Identifier: ZPL-2.1
import pathlib
import unittest

from lovely.remotetask.testing import Process
from lovely.remotetask.testing import temporaryZEO
from waits import PATIENCE
from waits import waitUntil


_SITE = """\
<configure xmlns:remotetask="http://namespaces.lovelysystems.com/remotetask">
  <include package="lovely.remotetask" />
{}</configure>
"""

_TASK = '  <remotetask:task name="{name}" handler="{module}.{handler}" />\n'

_CONFIGURATION = """\
site-definition {directory}/site.zcml
{database}
<frontend>
  address 127.0.0.1:0
  {frontend}
</frontend>
<processor>
  name {name}
  {processor}
</processor>
"""


def siteOf(handlers, module='tasks'):
    """Return the text of a site definition with tasks.

    handlers -- name of a task -> name of its handler in the module.
    module -- its dotted name.
    """
    return _SITE.format(''.join(_TASK.format(name=name, module=module, handler=handler)
                                for name, handler in handlers.items()))


def configurationOf(directory, database, name, frontend='', processor='threads 2'):
    """Return the text of a configuration file for a process.

    directory -- the path of the one with `site.zcml`.
    database -- the text of a `<zodb>` section.
    name -- of a processing host.
    frontend, processor -- the text of more keys for these sections.
    """
    return _CONFIGURATION.format(directory=str(directory).replace('$', '$$'), database=database, name=name,
                                 frontend=frontend.replace('\n', '\n  '), processor=processor.replace('\n', '\n  '))


class DeploymentCase(unittest.TestCase):
    """A frontend and processing hosts, as processes, over a database server.  A subclass may set these:

    temporaryServer -- a callable that gives the server, as `temporaryZEO`.
    hostNames -- names of the processing hosts.
    handlers -- name of a task -> name of its handler in `tasks.py`.
    tasks -- the text of that module.
    frontendKeys, processorKeys -- the text of more keys for the configuration files.
    """

    temporaryServer = staticmethod(temporaryZEO)
    hostNames = 'host-1', 'host-2'
    handlers, tasks = {}, ''
    frontendKeys, processorKeys = '', 'threads 2'

    def setUp(self):
        self.server = self.enterContext(self.temporaryServer())
        self.directory = pathlib.Path(self.server.directory)
        self.write('site.zcml', siteOf(self.handlers))
        self.write('tasks.py', self.tasks)
        self.prepareDatabase()
        self.frontend = self.remotetask('frontend', 'frontend')
        self.hosts = [self.remotetask(name, 'processor') for name in self.hostNames]
        self.processes = [self.frontend, *self.hosts]
        self.url = self.frontend.waitFor('listening on ')
        for process in self.processes:
            process.waitFor('ready')

    def prepareDatabase(self):
        """Do what is to be done before the first process starts."""

    def write(self, name, text):
        """Write a file, and return its path."""
        path = self.directory / name
        path.write_text(text)
        return str(path)

    def databaseOf(self, name):
        """Return the text of the `<zodb>` section for a process."""
        return self.server.config

    def remotetask(self, name, command):
        """Start a process, and return it.

        name -- of the processing host, and of the configuration file.
        command -- 'frontend' or 'processor'.
        """
        path = self.write(f'{name}.conf', configurationOf(self.directory, self.databaseOf(name), name,
                                                          self.frontendKeys, self.processorKeys))
        return self.start('-m', 'lovely.remotetask.cli.main', '-C', path, command)

    def start(self, *arguments):
        """Start a process of this Python, and return it."""
        process = Process(arguments, str(self.directory))
        self.addCleanup(process.close)
        return process

    def said(self):
        """Return what the server and all processes have said, as one text."""
        return self.server.said + ''.join(''.join(process.said) for process in self.processes)

    def waitUntil(self, condition, what, patience=PATIENCE):
        """Return the condition's value as soon as it is true; fail after so many seconds."""
        return waitUntil(condition, what, self.said, patience)
