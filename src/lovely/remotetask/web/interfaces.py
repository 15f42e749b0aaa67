"""What an application can add to the pages."""
# SPDX-License-Identifier: ZPL-2.1
from zope.interface import Interface


class IJobDetail(Interface):
    """What lists of jobs show of a job in the column for details: an adapter of `IJob`, named like its task.

    The text of `str` is shown, the first hundred characters or so; markup in it is shown as it is written.  Without an
    adapter the first words of the error are shown, or of the input.
    """

    def __str__():
        """Return the text."""
