"""Tasks to try a service with."""
# SPDX-License-Identifier: ZPL-2.1


def echo(input):
    """Return the input."""
    return input
