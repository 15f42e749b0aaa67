"""The sections of the configuration file as values, and what converts their texts; see `schema.xml`."""
# SPDX-License-Identifier: ZPL-2.1
import os
import re
import socket
from dataclasses import dataclass
from dataclasses import fields
from types import MappingProxyType

import ZConfig.datatypes

from lovely.remotetask.common.checks import cut
from lovely.remotetask.common.checks import isPause
from lovely.remotetask.config.limits import Limits
from lovely.remotetask.config.products import checkProduct
from lovely.remotetask.interfaces import CANCELLED
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import ERROR


@dataclass(frozen=True)
class FrontendSettings:
    """Where the XML-RPC server listens and what it puts up with."""

    #: The pair of host and port; port 0 is any free one.
    address: tuple
    #: What a client can take of it.
    limits: Limits
    #: Seconds that a call waits for the database.
    deadline: float
    #: The absolute paths of the users file, the certificate and its key; None for none.
    users: str | None
    certificate: str | None
    key: str | None
    #: Whether other machines may reach it without users or without TLS.
    allowInsecure: bool
    #: Where this process tells its metrics, the pair of host and port; None for nowhere.
    metricsAddress: tuple | None


@dataclass(frozen=True)
class ProcessorSettings:
    """How a processing host is called and how it works."""

    name: str
    #: Jobs of one service that run at the same time.
    threads: int
    #: Seconds of silence after which others take the host for lost.
    lease: float
    #: Seconds between two looks at an idle database.
    waitTime: float
    #: Seconds that running jobs have to end when the process stops.
    gracePeriod: float
    #: Whether it may be the scheduler.
    schedule: bool
    #: Patterns of the names of tasks that the host takes; None for all.
    tasks: tuple | None
    #: Final status -> seconds for which jobs in it are kept.
    keep: MappingProxyType
    #: Seconds between two packs, None for no packs; and for which old states are kept.
    packInterval: float | None
    packKeep: float
    #: Where this process tells its metrics, the pair of host and port; None for nowhere.
    metricsAddress: tuple | None
    #: Whether other machines may reach that.
    allowInsecure: bool


# Called with the text of a value, or with a section; a ValueError becomes a message with file and line.

_UNITS = {'ms': 0.001, 's': 1.0, 'm': 60.0, 'h': 3600.0, 'd': 86400.0, '': 1.0}
_TIME = re.compile(r'([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(ms|s|m|h|d|)')
_toHost = ZConfig.datatypes.stock_datatypes['ipaddr-or-hostname']
_toBytes = ZConfig.datatypes.stock_datatypes['byte-size']


def seconds(text):
    """Convert a time as in '500ms', '1.5m' or '20' to seconds, a float above 0."""
    value = pauseSeconds(text)
    if value == 0:
        raise ValueError(f'{text!r} is not a time above 0')
    return value


def pauseSeconds(text):
    """Convert a time, which may be no time at all, to seconds, a float of 0 or more."""
    match = _TIME.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f'{cut(text, 60)!r} is not a time: write a number with a unit (ms, s, m, h, d), as in 20s')
    value = float(match[1]) * _UNITS[match[2]]
    if not isPause(value):
        raise ValueError(f'{cut(text, 60)!r} is not a time of a hundred years or less')
    return value


def leaseSeconds(text):
    """Convert a time of one second or more to seconds, a float."""
    value = seconds(text)
    if value < 1:
        raise ValueError(f'{text!r} is too short: a lease is at least 1s')
    return value


def address(text):
    """Convert 'host:port', '[IPv6]:port' or a port alone to the pair of host and port; see schema.xml."""
    if text.isascii() and text.isdigit():
        host, port = '', text
    else:
        host, colon, port = text.rpartition(':')
        if not colon:
            raise ValueError(f'{text!r} is not an address: write host:port, or the port alone')
        if host.startswith('[') and host.endswith(']'):
            host = host[1:-1]
        elif ':' in host:
            raise ValueError(f'{text!r} is not an address: write an IPv6 address in brackets, as in [::1]:8080')
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError(f'{text!r} is not an address: the port has to be a number from 0 to 65535')
    if not host:                                # never all interfaces, unless they are asked for by 0.0.0.0 or [::]
        return '127.0.0.1', int(port)
    try:
        return _toHost(host), int(port)
    except ValueError:
        raise ValueError(f'{text!r} is not an address: {host!r} is not the name or the address of a host') from None


def bodySize(text):
    """Convert a size as in '8MB' to bytes, from 1 KB to 1 GB."""
    try:
        value = _toBytes(text.replace(' ', ''))
    except ValueError:
        raise ValueError(f'{text!r} is not a size: write a number with a unit (KB, MB, GB), as in 8MB') from None
    if not 1024 <= value <= 1024**3:
        raise ValueError(f'{text!r} is out of range: from 1KB to 1GB')
    return value


def connectionCount(text):
    """Convert the number of connections, from 1 to 100000."""
    return _count(text, 100000)


def threadCount(text):
    """Convert the number of threads, from 1 to 1000."""
    return _count(text, 1000)


def _count(text, maximum):
    if not re.fullmatch('-?[0-9]+', text):
        raise ValueError(f'{text!r} is not a whole number')
    if not 1 <= int(text[:20]) <= maximum:      # Python refuses to convert a number of thousands of digits
        raise ValueError(f'{text!r} is out of range: from 1 to {maximum}')
    return int(text)


def hostName(text):
    """Check the name of a processing host: something, and nothing that would spoil a line of a log."""
    if not text or not text.isprintable():
        raise ValueError(f'{text!r} is not a name: give printable characters')
    return text


def absolutePath(text, directory='.'):
    """Convert the path of a file to an absolute one; a relative one is relative to `directory`."""
    if not text or '\0' in text:
        raise ValueError(f'{text!r} is not the path of a file')
    return os.path.abspath(os.path.join(directory, os.path.expanduser(text)))


def siteDefinition(text, directory='.'):
    """Convert the path of a ZCML file, which has to be there, as `absolutePath`."""
    path = absolutePath(text, directory)
    if not os.path.isfile(path):
        raise ValueError(f'site-definition: there is no file {path}')
    return path


def frontendSettings(section):
    """Convert a <frontend> section."""
    if section.key is not None and section.certificate is None:
        raise ValueError('there is a key, but no certificate that it belongs to')
    # The keys that are limits have the names of these as their attributes, and the defaults of these.
    given = {field.name: getattr(section, field.name, None) for field in fields(Limits)}
    limits = Limits(**{name: value for name, value in given.items() if value is not None})
    return FrontendSettings(section.address, limits, section.deadline, section.users, section.certificate, section.key,
                            section.allow_insecure, section.metrics_address)


def processorSettings(section):
    """Convert a <processor> section."""
    keep = {status: value for status, value in ((COMPLETED, section.keep_completed), (ERROR, section.keep_error),
                                                (CANCELLED, section.keep_cancelled)) if value is not None}
    name = socket.gethostname() if section.name is None else section.name
    return ProcessorSettings(name, section.threads, section.lease, section.wait_time,
                             section.grace_period, section.schedule, section.tasks, MappingProxyType(keep),
                             section.pack_interval, section.pack_keep, section.metrics_address,
                             section.allow_insecure)


@dataclass(frozen=True)
class _ProductConfig:
    name: str
    mapping: dict


def taskNames(text):
    """Convert names of tasks, separated by commas or spaces, to a tuple of patterns."""
    names = tuple(text.replace(',', ' ').split())
    if not names:
        raise ValueError('names of tasks are needed, such as "avi2*, echo"')
    return names


def productConfig(section):
    """Convert a <product-config> section."""
    checkProduct(section.getSectionName(), section.mapping)
    return _ProductConfig(section.getSectionName(), dict(section.mapping))
