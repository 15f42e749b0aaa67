"""The bench's directory: configuration files for its processes, their logs, and the text of the database's section."""
# SPDX-License-Identifier: ZPL-2.1
import logging
import os
import re

from lovely.remotetask.bench.process import contentOf
from lovely.remotetask.bench.settings import THREADS
from lovely.remotetask.errors import ConfigurationError


# What a host logs when it repeats something because of the database.
_REPEATED = re.compile('DEBUG (processing host .*|job [0-9]+ is repeated): ')

_SITE = """\
<configure xmlns:remotetask="http://namespaces.lovelysystems.com/remotetask">
  <include package="lovely.remotetask" />
  <remotetask:task name="bench-noop" handler="lovely.remotetask.bench.tasks.noop" />
  <remotetask:task name="bench-sleep" handler="lovely.remotetask.bench.tasks.sleep" />
  <remotetask:task name="bench-write" handler="lovely.remotetask.bench.tasks.write" />
  <remotetask:task name="bench-elsewhere" handler="lovely.remotetask.bench.tasks.elsewhere" />
</configure>
"""

_CONFIGURATION = """\
{database}
site-definition {directory}/site.zcml
<frontend>
  address 127.0.0.1:0
</frontend>
<processor>
  name {name}
  threads {threads}
</processor>
<product-config lovely.remotetask>
  autostart {folder}@{service}
</product-config>
<eventlog>
  level info
  <logfile>
    path {directory}/{name}.log
    format %(levelname)s %(message)s
  </logfile>
</eventlog>
<logger>
  name lovely.remotetask
  level {level}
  propagate no
  <logfile>
    path {directory}/{name}.log
    format %(levelname)s %(message)s
  </logfile>
</logger>
"""

_EMBEDDED = """\
<zodb>
  <filestorage>
    path {directory}/Data.fs
    blob-dir {directory}/blobs
  </filestorage>
</zodb>
"""


class Directory:
    """Where the processes of a bench have their configuration files and logs.

    path -- of an existing directory.
    database -- the text of a `<zodb>` section, with the lines that it needs.
    service -- the pair of names of the folder and the service that hosts process.
    """

    def __init__(self, path, database, service):
        self.path, self._database, self._service = path, database, service
        with open(os.path.join(path, 'site.zcml'), 'w') as file:
            file.write(_SITE)

    def configure(self, name, level='debug'):
        """Write the configuration file of a process, and return its path.

        name -- of the process, and so of its log.
        level -- of its log.
        """
        path, (folder, service) = os.path.join(self.path, f'{name}.conf'), self._service
        with open(path, 'w') as file:
            file.write(_CONFIGURATION.format(database=self._database, directory=self.path.replace('$', '$$'), name=name,
                                             threads=THREADS, folder=folder, service=service, level=level))
        return path

    def log(self, name):
        """Return what a process has logged, as one text."""
        return contentOf(self._log(name))

    def _log(self, name):
        return os.path.join(self.path, f'{name}.log')

    def setUpLog(self, name):
        """Log what happens in this process under that name; return a callable that ends that."""
        logger, handler = logging.getLogger('lovely.remotetask'), logging.FileHandler(self._log(name))
        before = logger.level, logger.propagate
        handler.setFormatter(logging.Formatter('%(levelname)s %(message)s'))
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False

        def end():
            logger.removeHandler(handler)
            handler.close()
            logger.level, logger.propagate = before
        return end

    def repeated(self, names):
        """Return how often processes of these names have repeated something because of the database."""
        return sum(bool(_REPEATED.match(line)) for name in names for line in self.log(name).splitlines())


def embeddedDatabase(directory):
    """Return the text of a `<zodb>` section for a new FileStorage in a directory, given by its path."""
    return _EMBEDDED.format(directory=os.path.realpath(directory).replace('$', '$$'))


def databaseText(path):
    """Return the database's section of a configuration file, with the lines that it may need; '' for the default.

    Raise `ConfigurationError` when the section is in a file that this one includes.
    """
    with open(path, encoding='utf-8-sig') as file:
        content = file.read()
    section = re.search(r'^[ \t]*<zodb\b.*?^[ \t]*</zodb>', content, re.MULTILINE | re.DOTALL | re.IGNORECASE)
    lines = re.findall(r'^[ \t]*%(?:import|define)\b.*$', content, re.MULTILINE)
    if section is None and re.search(r'^[ \t]*%include\b', content, re.MULTILINE):
        raise ConfigurationError(f'{path}: the section <zodb> has to be in this file, not in one that it includes')
    return '\n'.join([*lines, section[0] if section else ''])


def isEmbedded(storage):
    """Return whether one process alone can open a database.

    storage -- the opener that the section of the storage became.

    Raise `ConfigurationError` when it is one in memory.
    """
    section = storage.config
    kind = section.getSectionType()
    if kind in ('mappingstorage', 'demostorage'):
        raise ConfigurationError(f'a database in memory ({kind}) cannot be measured')
    return isEmbedded(section.base) if kind == 'blobstorage' else kind == 'filestorage'
