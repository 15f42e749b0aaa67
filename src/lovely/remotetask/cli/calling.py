"""What the client commands have in common: options, types of arguments, and the messages for errors."""
# SPDX-License-Identifier: ZPL-2.1
import copy
import functools
import http
import json
import os
import re
import ssl
import time
import xmlrpc.client
from datetime import datetime
from datetime import timezone

import click
from click.core import ParameterSource

from lovely.remotetask import errors
from lovely.remotetask.cli.failure import BAD_INPUT
from lovely.remotetask.cli.failure import CANNOT_CONNECT
from lovely.remotetask.cli.failure import FAILURE
from lovely.remotetask.cli.failure import JOB_FAILED
from lovely.remotetask.cli.failure import CommandFailure
from lovely.remotetask.cli.urls import DEFAULT_URL
from lovely.remotetask.cli.urls import frontendURL
from lovely.remotetask.client import Client
from lovely.remotetask.client import File
from lovely.remotetask.client import JobFailed
from lovely.remotetask.client import NotAuthorized
from lovely.remotetask.client import NotConnected
from lovely.remotetask.client.transport import PASSWORD_FILE
from lovely.remotetask.client.transport import ConnectionBroken
from lovely.remotetask.client.transport import HttpError
from lovely.remotetask.common.checks import shown
from lovely.remotetask.config.sections import seconds
from lovely.remotetask.xmlrpc import faults


# What OpenSSL says of a certificate for another name or address (X509_V_ERR_HOSTNAME_MISMATCH and the like).
_OTHER_HOST = (62, 64)

# What pages, and most Web sites, answer to a call of XML-RPC.
_NOT_ALLOWED = http.HTTPStatus.METHOD_NOT_ALLOWED

# What the caller can correct by calling differently.
_BAD_INPUT = (faults.ParseError, faults.BadArguments, errors.UnknownTask, errors.InvalidInput)


def failureOf(error, url=''):
    """Return the `CommandFailure` that tells of an exception of the client.

    url -- that of the front end, as it was given.
    """
    if isinstance(error, NotConnected):
        return CommandFailure(f'{error}; {_adviceOn(error.__cause__)}', CANNOT_CONNECT)
    scheme, _, rest = url.partition('://')
    if isinstance(error, NotAuthorized):
        if '@' in rest:
            return CommandFailure(f'{error}; there is no such user, or {_reasonOf(rest)}')
        return CommandFailure(f'{error}; put user and password into the URL, {scheme or "http"}://USER:PASSWORD@HOST/')
    if isinstance(error, HttpError) and error.status == _NOT_ALLOWED:
        return CommandFailure(f'{error}; the URL must be that of the front end, not of the pages')
    if isinstance(error, ConnectionBroken) and scheme.lower() == 'http':
        return CommandFailure(f'{error}; if the front end speaks TLS, the URL begins with https://')
    if isinstance(error, JobFailed):
        return CommandFailure(str(error), JOB_FAILED)
    if isinstance(error, faults.ResultTooLarge):
        return CommandFailure(f'{error}, and so does: remotetask result ID --output FILE')
    return CommandFailure(str(error), BAD_INPUT if isinstance(error, _BAD_INPUT) else FAILURE)


def _reasonOf(rest):
    """Return why a password was refused, for what follows :// in a URL with a user."""
    if ':' in rest.rpartition('@')[0]:
        return 'the password in the URL is wrong'
    if os.environ.get(PASSWORD_FILE):
        return f'the password in the file that {PASSWORD_FILE} names is wrong'
    return f'there is no password: put it into the URL, or into a file that {PASSWORD_FILE} names'


def _adviceOn(error):
    """Return what may be done about an exception that a connection met."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _OTHER_HOST:
            return 'the certificate is for another host: use the name that it is for'
        return ('if you trust the certificate, or who signed it, name its file in the environment: '
                'SSL_CERT_FILE=FILE')
    if isinstance(error, (ssl.SSLError, ConnectionResetError)):
        return 'if the front end does not speak TLS, the URL begins with http://'
    return 'is the front end running?'


class Seconds(click.ParamType):
    """A time, written as in the configuration file.

    read -- what converts it: `sections.seconds`, or `sections.pauseSeconds` where it may be 0.
    """

    name = 'time'

    def __init__(self, read=seconds):
        self._read = read

    def convert(self, value, parameter, context):
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except ValueError as error:
            self.fail(str(error), parameter, context)


class Since(click.ParamType):
    """A time: so long ago, or a date, or a date and a time, in UTC.  Converted to UTC seconds."""

    name = 'time'

    def convert(self, value, parameter, context):
        if not isinstance(value, str):
            return value
        try:
            return time.time() - seconds(value)
        except ValueError:
            pass
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f'{value!r} is neither how long ago, as 90m, nor a time, as 2026-05-01T12:00', parameter, context)
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def _refuseConstant(name):
    raise ValueError(f'{name} is not JSON')


def parseJson(text):
    """Return the value that JSON stands for; raise `ValueError` for what is none, or cannot be sent."""
    try:
        data = json.loads(text, parse_constant=_refuseConstant)
        xmlrpc.client.dumps((data,), allow_none=True)
    except json.JSONDecodeError as error:
        raise ValueError(f'not JSON: line {error.lineno} column {error.colno}: {error.msg}') from error
    except OverflowError as error:
        raise ValueError('an integer has more than the 32 bits of XML-RPC: write it as a string') from error
    except RecursionError as error:
        raise ValueError('nested too deeply') from error
    return data


class Json(click.ParamType):
    """JSON, or - for the standard input."""

    name = 'json'

    def convert(self, value, parameter, context):
        try:
            return parseJson(click.get_text_stream('stdin').read() if value == '-' else value)
        except ValueError as error:
            self.fail(str(error), parameter, context)


class FileAt(click.ParamType):
    """A file, and the place of it in the input: NAME=PATH.  Converted to a pair of a list of names and a `File`."""

    name = 'file'

    def convert(self, value, parameter, context):
        name, equals, path = value.partition('=')
        if not equals:
            name, path = '', value
        try:
            file = File(click.get_binary_stream('stdin') if path == '-' else path)
            file.open().close()
        except (ValueError, errors.RemoteTaskError) as error:
            self.fail(str(error), parameter, context)
        return name.split('.') if name else [], file


def withFiles(input, files):
    """Return the input with files at their places, pairs as `FileAt` gives them; raise `click.BadParameter`."""
    for names, file in files:
        try:
            input = _placed(input, names, file)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="'--file'") from error
    return input


def _placed(input, names, file):
    """Return the input with a file at a place; raise `ValueError` when there is no such place, or something is there.

    names -- from the outside in: the keys of objects, which are made where they are missing, and the numbers of items.
    """
    if not names:
        if input is not None:
            raise ValueError(f'there is {shown(input)} already: name a place for the file that is free, NAME=PATH')
        return file
    name, rest = names[0], names[1:]
    if isinstance(input, list):
        if not name.isdecimal() or int(name) >= len(input):
            raise ValueError(f'there is no item {name!r} in a list of {len(input)}')
        return [_placed(item, rest, file) if number == int(name) else item for number, item in enumerate(input)]
    if not isinstance(input, (dict, type(None))):
        raise ValueError(f'there is no {name!r} in {shown(input)}')
    return {**(input or {}), name: _placed((input or {}).get(name), rest, file)}


class JobId(click.ParamType):
    """The id of a job."""

    name = 'id'

    def convert(self, value, parameter, context):
        if isinstance(value, int):
            return value
        if not (value.isascii() and value.isdecimal()) or len(value) > 10 or not 0 < int(value) < 2 ** 31:
            self.fail(f'{value!r} is not a job id: a number from 1 to {2 ** 31 - 1}', parameter, context)
        return int(value)


#: Arguments that several commands have.
ID = JobId()
jobid = click.argument('jobid', metavar='ID', type=ID)


def alias(command, name):
    """Return a hidden command that does what another one does, under an older name."""
    hidden = copy.copy(command)
    hidden.name, hidden.hidden = name, True
    hidden.help = f'{command.help}\n\nThis is the older name of {command.name}.'
    return hidden


def _chosenURL(context, url):
    """Return the URL of the front end: an option wins over the environment, and then the URL over the file."""
    isFileGiven = context.find_root().get_parameter_source('config') is ParameterSource.COMMANDLINE
    isFromEnvironment = context.get_parameter_source('url') is ParameterSource.ENVIRONMENT
    return frontendURL(context.obj) if url is None or isFileGiven and isFromEnvironment else url


def commandOf(kind, answerTimeout):
    """Return a decorator that makes a command of that kind, a class; see `command`."""
    return functools.partial(command, kind=kind, answerTimeout=answerTimeout)


def command(function, kind=click.Command, answerTimeout='60s'):
    """Make a command of a function of a `Client` and whatever else is declared by decorators below this one.

    kind -- the class of the command.
    answerTimeout -- how long it waits for an answer by default, as a user writes it.
    """

    @click.command(re.sub('([A-Z])', r'-\1', function.__name__).lower(), cls=kind)
    @click.option('--url', envvar='REMOTETASK_URL', show_envvar=True,
                  help=f'The URL of the front end; default: that of the configuration file, or {DEFAULT_URL} without '
                       'one.  The path names the task service.  If it has '
                       'users: https://USER:PASSWORD@example.org/, or https://USER@example.org/ and the password in '
                       'the file that REMOTETASK_PASSWORD_FILE names.')
    @click.option('--answer-timeout', metavar='TIME', type=Seconds(), default=answerTimeout, show_default=True,
                  help='How long to wait for an answer, even if the front end is busy or restarts meanwhile: 20s, '
                       '1.5m; without a unit in seconds.')
    @click.pass_context
    @functools.wraps(function)
    def run(context, url, answer_timeout, **arguments):
        url = _chosenURL(context, url)
        try:
            client = Client(url, answer_timeout)
        except ValueError as error:
            if str(error).startswith(PASSWORD_FILE):
                raise CommandFailure(str(error), BAD_INPUT) from error
            raise click.BadParameter(str(error), param_hint="'--url'") from error
        with client:
            try:
                return function(client, **arguments)
            except errors.RemoteTaskError as error:
                raise failureOf(error, url) from error

    return run
