"""Words that users of other systems try, and what these things are called here."""
# SPDX-License-Identifier: ZPL-2.1
import click


#: Commands: the word, and the words after `remotetask`.
COMMANDS = {
    'beat': 'scheduler', 'call': 'add', 'cron': 'schedule', 'delay': 'schedule', 'dashboard': 'web', 'delete': 'remove',
    'enqueue': 'add', 'flower': 'web', 'hosts': 'is-processing', 'info': 'statistics', 'inspect': 'is-processing',
    'list': 'jobs', 'ping': 'health', 'purge': 'cancel --filter', 'queue': 'service list', 'queues': 'service list',
    'requeue': 'retry', 'revoke': 'cancel', 'send': 'add', 'show': 'job', 'start-worker': 'processor',
    'stats': 'statistics', 'suspend': 'pause', 'worker': 'processor', 'workers': 'is-processing',
}
#: Options of `add` that say when.
_LATER = '--at', '--countdown', '--cron', '--crontab', '--delay', '--eta', '--every', '--in', '--interval'


def adviceOn(error):
    """Return a sentence, without a full stop, for a `click.UsageError` about a word of elsewhere; '' for any other."""
    if isinstance(error, click.exceptions.NoSuchCommand):
        # That of a group has other words.
        isOurs = error.ctx is None or error.ctx.parent is None
        meant = COMMANDS.get(error.command_name) if isOurs else None
        return f"No such command '{error.command_name}'; here it is: remotetask {meant}" if meant else ''
    if not isinstance(error, click.NoSuchOption) or error.ctx is None or error.ctx.parent is None:
        return ''
    if error.option_name in ('-C', '--config'):
        name = error.ctx.command_path.removeprefix('remotetask ')
        return f"'{error.option_name}' goes before the command: remotetask -C FILE {name}"
    if error.option_name in _LATER and error.ctx.info_name == 'add':
        return f"No such option '{error.option_name}'; to run it later, or again and again: remotetask schedule"
    return ''
