"""The program `remotetask`: its options, and how it ends."""
# SPDX-License-Identifier: ZPL-2.1
# ruff: noqa: E402
from lovely.remotetask.common.process import openStandardDescriptors


# First of all: to import some libraries opens files, with newer releases of libffi even `ctypes`.
openStandardDescriptors()

import contextlib
import logging
import sys

import click
from ZODB.POSException import ReadOnlyError

from lovely.remotetask.cli import bench
from lovely.remotetask.cli import check
from lovely.remotetask.cli import health
from lovely.remotetask.cli import init
from lovely.remotetask.cli import jobs
from lovely.remotetask.cli import local
from lovely.remotetask.cli import run_here
from lovely.remotetask.cli import schedules
from lovely.remotetask.cli import service
from lovely.remotetask.cli import services
from lovely.remotetask.cli import transfer
from lovely.remotetask.cli import upgrade
from lovely.remotetask.cli import users
from lovely.remotetask.cli.failure import BAD_INPUT
from lovely.remotetask.cli.failure import FAILURE
from lovely.remotetask.cli.failure import INTERRUPTED
from lovely.remotetask.cli.failure import oneLine
from lovely.remotetask.cli.words import adviceOn
from lovely.remotetask.common.process import discard
from lovely.remotetask.common.process import resetSignals
from lovely.remotetask.common.release import release
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.errors import RemoteTaskError


log = logging.getLogger(__name__)


@click.group(context_settings={'help_option_names': ['-h', '--help'], 'max_content_width': 100},
             invoke_without_command=True)
@click.option('-C', '--config', metavar='FILE', type=click.Path(), envvar='REMOTETASK_CONFIG', show_envvar=True,
              help='The configuration file.  Without one: the example task "echo", a database in ./var, and XML-RPC on '
                   'http://127.0.0.1:8080/.')
@click.version_option(release(), message='lovely.remotetask %(version)s')
@click.pass_context
def remotetask(context, config):
    """Durable remote tasks: jobs in a ZODB, added over XML-RPC.

    serve, frontend, processor, scheduler and web are servers.  The servers and pack, bench, export, import, run-here,
    service, upgrade and user read a configuration file; init writes one.  All other commands are clients: they call a
    front end, and need its URL or its configuration file.

    \b
    To try it, in two terminals:
      $ remotetask serve
      $ remotetask add echo '{"hello": "world"}' --wait

    \b
    A directory for tasks of your own:
      $ remotetask init films

    \b
    Exit codes:
      0    done
      1    failed; a line on the standard error output says why
      2    wrong usage, wrong input, or a mistake in the configuration
      3    cannot connect to the front end
      4    the job ended in an error (commands that wait for a job or print its result)
      130  interrupted by Ctrl-C; a server: by a second Ctrl-C
      143  a server: ended by a second SIGTERM
    """
    context.obj = config
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(BAD_INPUT)


for command in (*init.COMMANDS, *local.COMMANDS, *health.COMMANDS, *run_here.COMMANDS, *users.COMMANDS,
                *jobs.COMMANDS, *schedules.COMMANDS, *service.COMMANDS, *services.COMMANDS, *transfer.COMMANDS,
                *upgrade.COMMANDS, *check.COMMANDS, *bench.COMMANDS):
    remotetask.add_command(command)


def run(arguments=None):
    """Run the program and return its exit code; `arguments` is a list of strings, default: those of the process."""
    try:
        code = remotetask.main(arguments, prog_name='remotetask', standalone_mode=False)
        sys.stdout.flush()
        return code or 0
    except click.UsageError as error:
        hint = f' (see {error.ctx.command_path} --help)' if error.ctx is not None else ''
        return _fail((adviceOn(error) or _messageOf(error)) + hint, error.exit_code)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except ConfigurationError as error:
        return _fail(error, BAD_INPUT)
    except RemoteTaskError as error:
        return _fail(error, FAILURE)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:                     # the program that read our output has ended
        return FAILURE
    except ReadOnlyError:
        return _fail('the database is read-only', FAILURE)
    except Exception as error:
        log.debug('unexpected', exc_info=True)
        return _fail(': '.join(filter(None, (f'unexpected {type(error).__name__}', str(error)))), FAILURE)


def main():
    """Run the program and exit."""
    resetSignals()
    sys.stdout.reconfigure(errors='backslashreplace')       # for a terminal that lacks some characters
    code = run()
    # The interpreter flushes these once more, and would report what it cannot write.
    for stream in sys.stdout, sys.stderr:
        try:
            stream.flush()
        except OSError:
            discard(stream)
    sys.exit(code)


def _messageOf(error):
    """Return what click says of a `click.UsageError`, without the full stop."""
    # It suggests the option for help instead of many an unknown one, and nobody means that.
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        error.possibilities = [name for name in error.possibilities or () if name not in error.ctx.help_option_names]
    return error.format_message().rstrip('.')


def _fail(message, code):
    with contextlib.suppress(OSError):          # nobody reads it
        click.echo(f'remotetask: {oneLine(str(message))}', err=True)
    return code


if __name__ == '__main__':
    main()
