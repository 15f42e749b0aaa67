"""The database servers that a scenario can have."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import os
import tempfile

from lovely.remotetask.testing import temporaryPostgreSQL
from lovely.remotetask.testing import temporaryZEO


#: A directory that is in memory, where the system has it.
MEMORY = '/dev/shm'


@contextlib.contextmanager
def fastPostgreSQL():
    """Run a PostgreSQL whose commits do not wait for a disk that others keep busy."""
    where = MEMORY if os.path.isdir(MEMORY) else None
    with temporaryPostgreSQL() as server, tempfile.TemporaryDirectory(prefix='remotetask-', dir=where) as directory:
        try:
            server.keepTemporaryTables(directory)
            yield server
        finally:
            server.close()


#: How to run the database server, by the name of the storage.
STORAGES = {'zeo': temporaryZEO, 'postgresql': fastPostgreSQL}
