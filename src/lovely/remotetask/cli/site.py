"""The database and the tasks of a configuration file, for commands that need no server."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib

from lovely.remotetask.cli.local import openDatabase
from lovely.remotetask.common.process import keepFilesPrivate
from lovely.remotetask.config.settings import load
from lovely.remotetask.config.zcml import loadSite


@contextlib.contextmanager
def opened(configurationPath):
    """Give the open `ZODB.DB` of a configuration file, with its site definition loaded.

    configurationPath -- of the file; None for the default configuration.

    Raise `ConfigurationError` for a mistake in the configuration, `CommandFailure` when the database cannot be opened.
    """
    keepFilesPrivate()
    configuration = load(configurationPath)
    configuration.setUpLogging()
    with contextlib.closing(openDatabase(configuration)) as database:
        loadSite(configuration.siteDefinition)
        yield database.db
