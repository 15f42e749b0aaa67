"""Reads and checks the configuration file, and says where a mistake is.

`schema.xml` declares every key with its meaning, unit and default.
"""
# SPDX-License-Identifier: ZPL-2.1
import functools
import importlib.util
import io
import logging
import os
import pathlib
import sys
import urllib.parse
import urllib.request
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import ZConfig
import ZConfig.datatypes
import ZConfig.loader

from lovely.remotetask.common.logs import tellRuns
from lovely.remotetask.config.products import setProductConfigurations
from lovely.remotetask.config.sections import FrontendSettings
from lovely.remotetask.config.sections import ProcessorSettings
from lovely.remotetask.config.sections import absolutePath
from lovely.remotetask.config.sections import siteDefinition
from lovely.remotetask.config.web import WebSettings
from lovely.remotetask.database.tls import clientContext
from lovely.remotetask.database.zeo import describeServer
from lovely.remotetask.errors import ConfigurationError


HERE = os.path.dirname(os.path.abspath(__file__))
DEFAULT_SITE = os.path.join(os.path.dirname(HERE), 'configure.zcml')
LOG_FORMAT = '%(asctime)s %(levelname)s %(name)s %(message)s'

log = logging.getLogger('lovely.remotetask')


@dataclass(frozen=True)
class Configuration:
    """What a configuration file says, with every default filled in."""

    #: The absolute path of the configuration file; None when there was none.
    path: str | None
    #: The absolute path of the ZCML file with the tasks.
    siteDefinition: str
    #: A `ZODB.config.ZODBDatabase`: `open()` gives a `ZODB.DB`, `config.storage.open()` its storage alone.
    database: Any
    frontend: FrontendSettings
    processor: ProcessorSettings
    #: None when the file has no such section; without a file there are pages.
    web: WebSettings | None
    #: Name of a package -> dict of its settings.
    products: MappingProxyType
    #: Factories from ZConfig, for the event log and single loggers; empty for the default.
    loggers: tuple

    @property
    def databaseDescription(self):
        """Where the data is, in words and without passwords, as in 'FileStorage /srv/var/Data.fs'."""
        return describeStorage(self.database.config.storage)

    @property
    def databaseServers(self):
        """The addresses of the database servers (ZEO), as ZEO has them, a list; empty for another kind of database."""
        section = self.database.config.storage.config
        return [server.address for server in section.server] if section.getSectionType() in _CLIENTS else []

    def product(self, name):
        """Return the settings of the package `name`, a dict of strings; empty when there are none."""
        return dict(self.products.get(name.lower(), {}))

    def setUpLogging(self):
        """Start to log as the configuration says.  Raise `ConfigurationError` when a log file can't be opened."""
        blobs = logging.getLogger('ZODB.blob')
        if blobs.level == logging.NOTSET:
            blobs.setLevel(logging.WARNING)         # it tells of each directory that it makes
        if not any(factory.name is None for factory in self.loggers):         # no <eventlog>
            logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
            for handler in logging.root.handlers:
                tellRuns(handler)
        for factory in self.loggers:
            try:
                logger = factory()
            except Exception as error:          # a handler of any package may be named: it raises what it likes
                raise ConfigurationError(f'{self.path}: cannot log as configured: {error}') from error
            for handler in logger.handlers:
                _escapeWhatCannotBeEncoded(handler)
                tellRuns(handler)


def _escapeWhatCannotBeEncoded(handler):
    """Make a handler write `\\u20ac` for a character that its file has no bytes for, instead of losing the line."""
    if isinstance(handler, logging.FileHandler):
        handler.errors = 'backslashreplace'             # for when it is opened anew
    if isinstance(getattr(handler, 'stream', None), io.TextIOWrapper):
        handler.stream.reconfigure(errors='backslashreplace')


def reopenLogs():
    """Open the log files of all loggers anew by their names, after they have been moved away; no line is lost.

    Nothing is rotated here, also where a <logfile> has a `max-size`.  When a file cannot be opened the log goes on in
    the old one, and says so.
    """
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = {handler for logger in loggers for handler in getattr(logger, 'handlers', ())
                if isinstance(handler, logging.FileHandler) and handler.mode == 'a'}
    for handler in handlers:
        try:
            open(handler.baseFilename, 'ab').close()
            with handler.lock:                  # another thread may be about to rotate
                if (old := handler.setStream(None)) is not None:        # the next line opens it
                    old.close()
        except OSError as error:
            log.error('the log file %s cannot be reopened, the log goes on in the old one: %s', handler.baseFilename,
                      error.strerror)
        else:
            log.info('reopened the log file %s', handler.baseFilename)


def load(path=None):
    """Read a configuration file and return its `Configuration`.

    path -- of the file; None for the defaults, which need no file.

    The settings of packages are also what `productConfiguration` answers from then on.  Raise `ConfigurationError`,
    whose message names file, line and reason, for a file that can't be read or has a mistake in it.
    """
    try:
        directory = os.getcwd() if path is None else os.path.dirname(path := os.path.abspath(path))
    except FileNotFoundError as error:
        raise ConfigurationError('the working directory was removed: name the configuration file by an absolute path, '
                                 'or start elsewhere') from error
    schema = _loadSchema(directory)
    values = _readText(schema, '') if path is None else _readFile(schema, path)
    defaults = _readText(schema, '<frontend/>\n<processor/>')
    products = {section.name: section.mapping for section in values.products}
    configuration = Configuration(
        path=path,
        siteDefinition=DEFAULT_SITE if values.site_definition is None else values.site_definition,
        database=_readDefaultDatabase(schema) if values.database is None else values.database,
        frontend=defaults.frontend if values.frontend is None else values.frontend,
        processor=defaults.processor if values.processor is None else values.processor,
        web=defaultWeb() if path is None else values.web,
        products=MappingProxyType(products),
        loggers=tuple(factory for factory in (values.eventlog, *values.loggers) if factory is not None))
    setProductConfigurations(products)
    return configuration


def defaultDatabase():
    """Return the absolute path of the file that `load()` without a file takes as the database."""
    return os.path.abspath('var/Data.fs')


def defaultWeb():
    """Return the `WebSettings` of an empty section."""
    return _readText(_loadSchema(os.curdir), '<web/>').web


# Reading

class _Lines:
    """The lines of a file; tells the loader which one is being read."""

    def __init__(self, file, url, loader):
        self.file, self.url, self.loader, self.number = file, url, loader, 0
        loader.position = url, 1

    def readline(self):
        line = self.file.readline()
        if line:
            self.number += 1
            self.loader.position = self.url, self.number
        return line

    def close(self):
        self.file.close()


class _Loader(ZConfig.loader.ConfigLoader):
    """Reads a configuration and knows its position, for those mistakes that ZConfig reports without one."""

    position = None, 0

    #: Sections that ZODB takes without the storage that they are nothing without: type -> its attribute.
    storages = {'zodb': 'storage', 'blobstorage': 'base'}

    def createResource(self, file, url):
        # Of a component that is imported, ZConfig reads XML and knows the position of a mistake itself.
        isComponent = url is not None and url.startswith('package:')
        return super().createResource(file if isComponent else _Lines(file, url, self), url)

    def endSection(self, parent, type_, name, matcher):
        value = matcher.finish()
        if type_ in self.storages and getattr(value, self.storages[type_]) is None:
            raise ZConfig.ConfigurationError(f'there is no storage in the section {type_!r}')
        parent.addSection(type_, name, value)


def _loadSchema(directory):
    """Return the schema; `directory` is what paths are relative to."""
    registry = ZConfig.datatypes.Registry()
    registry.register('ZEO.zconfig.client_ssl', clientContext)
    # Under their own names, so that the schema stays complete without this module's help.
    for convert in absolutePath, siteDefinition:
        registry.register(f'lovely.remotetask.config.sections.{convert.__name__}',
                          functools.partial(convert, directory=directory))
    return ZConfig.loader.SchemaLoader(registry).loadURL(os.path.join(HERE, 'schema.xml'))


def _readFile(schema, path):
    """Return the values in the file; raise `ConfigurationError`."""
    url = pathlib.Path(path).as_uri()
    try:
        with open(path, 'rb') as file:
            content = file.read()
    except OSError as error:
        raise ConfigurationError(f'{path}: cannot read the configuration file: {error.strerror}') from error
    try:
        text = content.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise _mistake(error, (url, 1 + error.object.count(b'\n', 0, error.start))) from error
    loader = _Loader(schema)
    try:
        return loader.loadFile(io.StringIO(text), url)[0]
    except Exception as error:                  # the datatypes of imported packages raise what they like
        raise _mistake(error, loader.position) from error


def _readText(schema, text):
    """Return the values in a text of our own."""
    return _Loader(schema).loadFile(io.StringIO(text))[0]


def _mistake(error, position):
    """Return a `ConfigurationError` with file, line and reason for what came up while reading at `position`."""
    url, line = position
    # Values are checked at the end of their section, but counted by the line they stand in.
    if (getattr(error, 'lineno', None) or -1) > 0 and error.url:
        url, line = error.url, error.lineno
    if isinstance(error, ZConfig.ConfigurationError):
        reason = error.message
    elif isinstance(error, UnicodeDecodeError):
        reason = 'the file is not encoded in UTF-8'
    else:
        reason = f'{type(error).__name__}: {error}'
    if reason.startswith('invalid literal for int()'):
        reason = f'{error.value!r} is neither a whole number nor one of the words that this key knows'
    if reason.startswith('could not load package relstorage') and importlib.util.find_spec('relstorage') is None:
        reason = f'{reason}; for PostgreSQL install lovely.remotetask[postgresql]'
    lines = reason.split('\n')
    if len(lines) > 2:                          # some reasons have a traceback in them; its end says it all
        reason = f'{lines[0]}: {lines[-1] or lines[-2]}'
    if url.startswith('file:'):
        url = urllib.request.url2pathname(urllib.parse.urlsplit(url).path)
    return ConfigurationError(f'{url}, line {line}: {" ".join(reason.split())}')


# Defaults

_DEFAULT_DATABASE = """
<zodb>
  <filestorage>
    path {directory}/Data.fs
    blob-dir {directory}/blobs
  </filestorage>
</zodb>
"""


def _readDefaultDatabase(schema):
    """Return the section of a database in the directory `var`, which is made if it is missing."""
    directory = os.path.dirname(defaultDatabase())
    try:
        # Jobs may carry anything: the directory is nobody else's business.
        os.makedirs(directory, mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f'{directory}: cannot make the directory of the default database: '
                                 f'{error.strerror}') from error
    text = _DEFAULT_DATABASE.format(directory=directory.replace('$', '$$'))     # a $ starts a substitution
    return _readText(schema, text).database


# Where the data is

#: The sections of clients of ZEO.
_CLIENTS = 'zeoclient', 'clientstorage'


def describeStorage(storage):
    """Return in words where a storage keeps its data; `storage` is a storage section, as `ZODB.config` has them."""
    section = storage.config
    kind = section.getSectionType()
    if kind == 'filestorage':
        return f'FileStorage {os.path.abspath(section.path)}'
    if kind in _CLIENTS:
        return 'ZEO ' + ', '.join(describeServer(server.address) for server in section.server)
    if kind == 'blobstorage':
        return f'{describeStorage(section.base)}, blobs {os.path.abspath(section.blob_dir)}'
    if kind == 'mappingstorage':
        return 'MappingStorage, in memory'
    if kind == 'demostorage':
        return 'DemoStorage over ' + (', '.join(map(describeStorage, section.factories)) or 'nothing')
    # Of others we know nothing; what they are connected to may have a password in it.
    return f'{kind} {storage.name}' if storage.name else kind
