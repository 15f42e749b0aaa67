"""What the client commands have in common: options, types of arguments, and how what goes wrong is told."""
# SPDX-License-Identifier: ZPL-2.1
import copy
import functools
import json
import re
import xmlrpc.client

import click

from lovely.remotetask import errors
from lovely.remotetask.cli.failure import BAD_INPUT
from lovely.remotetask.cli.failure import CANNOT_CONNECT
from lovely.remotetask.cli.failure import FAILURE
from lovely.remotetask.cli.failure import JOB_FAILED
from lovely.remotetask.cli.failure import CommandFailure
from lovely.remotetask.client import Client
from lovely.remotetask.client import JobFailed
from lovely.remotetask.client import NotAuthorized
from lovely.remotetask.client import NotConnected
from lovely.remotetask.config.sections import seconds
from lovely.remotetask.xmlrpc import faults


# What the caller can correct by calling differently.
_BAD_INPUT = (faults.ParseError, faults.BadArguments, errors.UnknownTask, errors.InvalidInput)


def failureOf(error):
    """Return the `CommandFailure` that tells of an exception of the client."""
    if isinstance(error, NotConnected):
        return CommandFailure(f'{error}; is the front end running?', CANNOT_CONNECT)
    if isinstance(error, NotAuthorized):
        return CommandFailure(f'{error}; put user and password into the URL, http://USER:PASSWORD@HOST/')
    if isinstance(error, JobFailed):
        return CommandFailure(str(error), JOB_FAILED)
    return CommandFailure(str(error), BAD_INPUT if isinstance(error, _BAD_INPUT) else FAILURE)


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


#: Arguments that several commands have.
ID = click.IntRange(1, 2**31 - 1)
jobid = click.argument('jobid', metavar='ID', type=ID)


def alias(command, name):
    """Return a hidden command that does what another one does, under an older name."""
    hidden = copy.copy(command)
    hidden.name, hidden.hidden = name, True
    hidden.help = f'{command.help}\n\nThis is the older name of {command.name}.'
    return hidden


def command(function):
    """Make a command of a function of a `Client` and whatever else is declared by decorators below this one."""

    @click.command(re.sub('([A-Z])', r'-\1', function.__name__).lower())
    @click.option('--url', default='http://127.0.0.1:8080/', envvar='REMOTETASK_URL', show_default=True,
                  show_envvar=True,
                  help='The URL of the front end.  The path names the task service.  If it has '
                       'users: https://USER:PASSWORD@example.org/.')
    @click.option('--answer-timeout', metavar='TIME', type=Seconds(), default='60s', show_default=True,
                  help='How long to wait for an answer, even if the front end is busy or restarting: 20s, 1.5m; '
                       'without a unit in seconds.')
    @functools.wraps(function)
    def run(url, answer_timeout, **arguments):
        try:
            client = Client(url, answer_timeout)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="'--url'") from error
        with client:
            try:
                return function(client, **arguments)
            except errors.RemoteTaskError as error:
                raise failureOf(error) from error

    return run
