"""The section <web> of the configuration file: where the pages are, and who may see them."""
# SPDX-License-Identifier: ZPL-2.1
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class WebSettings:
    """Where the pages listen, and what they hide."""

    #: The pair of host and port; port 0 is any free one.
    address: tuple
    #: What stands before the paths of all pages, '/pages' for example; '' for nothing.
    path: str
    #: The absolute path of the users file; None for that of the front end.
    users: str | None
    #: How many requests are answered at the same time.
    threads: int
    #: More names of fields whose values are hidden: patterns of `fnmatch`.
    mask: tuple
    #: Whether other machines may reach it without users, or without a proxy that speaks TLS.
    allowInsecure: bool


def webSettings(section):
    """Convert a <web> section."""
    return WebSettings(section.address, section.path or '', section.users, section.threads, tuple(section.mask.split()),
                       section.allow_insecure)


def path(text):
    """Check the path below which the pages are; return it without a slash at the end."""
    if not re.fullmatch(r'(/[A-Za-z0-9_.~-]+)+/?', text):
        raise ValueError(f'{text!r} is not a path: begin with a slash, as in /pages, and use letters, digits and -._~')
    return text.rstrip('/')
