"""The command that says by its exit code whether a process is well: for containers and supervisors."""
# SPDX-License-Identifier: ZPL-2.1
import http.client
import json
import urllib.error
import urllib.request

import click

from lovely.remotetask.cli.calling import Seconds
from lovely.remotetask.cli.failure import CommandFailure
from lovely.remotetask.cli.failure import oneLine
from lovely.remotetask.cli.urls import localURL
from lovely.remotetask.common.checks import counted
from lovely.remotetask.config.settings import defaultWeb
from lovely.remotetask.config.settings import load


#: Bytes of an answer that are read.
SIZE = 10_000


@click.command()
@click.option('--ready', is_flag=True, help='Ask whether it can do its work, too: whether the database answers.')
@click.option('--url', metavar='URL', help='Where the pages are.  Default: what <web> of the configuration file says.')
@click.option('--answer-timeout', metavar='TIME', type=Seconds(), default='5s', show_default=True,
              help='How long to wait for an answer.')
@click.pass_obj
def health(configurationPath, ready, url, answer_timeout):
    """Check whether the pages are well; exit code 1 if not.

    \b
    Examples:
      $ remotetask health
      alive
      $ remotetask health --ready --url http://127.0.0.1:8081/
      ready
    """
    if url is None:
        url = localURL(((load(configurationPath).web if configurationPath else None) or defaultWeb()).address)
    elif not url.startswith(('http://', 'https://')):
        raise click.BadParameter('it begins with http:// or https://', param_hint="'--url'")
    where = url.rstrip('/') + ('/ready' if ready else '/live')
    try:
        with urllib.request.urlopen(where, timeout=answer_timeout) as answer:
            unusable = _unusable(answer)
    except urllib.error.HTTPError as error:
        raise CommandFailure(f'not {"ready" if ready else "alive"}: {_problem(error)}') from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise CommandFailure(f'no answer from {where}: {getattr(error, "reason", None) or error}') from error
    click.echo('\n'.join(['ready' if ready else 'alive', *unusable]))


def _unusable(answer):
    """Return what an answer says of services that cannot be used, a list of lines."""
    try:
        found = json.loads(answer.read(SIZE))
        reasons, number = found.get('reasons', {}), found.get('unusable', 0)
        return [oneLine(str(reason)) for reason in reasons.values()] or (
            [f'{counted(int(number), "task service")} cannot be used here'] if number else [])
    except (ValueError, TypeError, AttributeError):
        return []


def _problem(error):
    """Return what the body of an answer says, or else its status."""
    try:
        return oneLine(str(json.loads(error.read(SIZE))['problem']))
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return f'HTTP status {error.code}'


COMMANDS = (health,)
