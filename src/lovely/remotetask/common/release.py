"""The release of the package that runs here."""
# SPDX-License-Identifier: ZPL-2.1
import functools
import importlib.metadata


@functools.cache
def release():
    """Return the version of the installed package, a text; 'unreleased' where it is run from its sources alone."""
    try:
        return importlib.metadata.version('lovely.remotetask')
    except importlib.metadata.PackageNotFoundError:
        return 'unreleased'
