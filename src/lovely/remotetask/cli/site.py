"""The database and the tasks of a configuration file, for commands that need no server."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib

from lovely.remotetask.cli.failure import CommandFailure
from lovely.remotetask.cli.local import loadExisting
from lovely.remotetask.cli.local import openDatabase
from lovely.remotetask.cli.local import setUpLogging
from lovely.remotetask.common.process import keepFilesPrivate
from lovely.remotetask.config.zcml import loadSiteOf
from lovely.remotetask.database.sites import checkedRoot
from lovely.remotetask.database.zopeapp import isRunning
from lovely.remotetask.service import install


@contextlib.contextmanager
def opened(configurationPath):
    """Give the open `ZODB.DB` of a configuration file, with its site definition loaded.

    configurationPath -- of the file; None for the default configuration.

    Raise `ConfigurationError` for a mistake in the configuration, `CommandFailure` when the database cannot be opened,
    or is to be the default one and is not there.
    """
    keepFilesPrivate()
    configuration = loadExisting(configurationPath)
    setUpLogging(configuration)
    with contextlib.closing(openDatabase(configuration)) as database:
        loadSiteOf(database.db, configuration.siteDefinition)
        yield database.db


def makeRoot(db):
    """Make the root folder of an empty database, and its default service, as a server does; `db` is a `ZODB.DB`.

    Raise `CommandFailure` when the site definition loads Zope, which makes its application object itself.
    """
    with db.transaction() as connection:
        isEmpty = checkedRoot(connection) is None
    if isEmpty and isRunning():
        raise CommandFailure('the database is empty, and the site definition loads Zope: start Zope with this database '
                             'first, which makes its application object')
    if isEmpty:
        install(db)
