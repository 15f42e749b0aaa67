"""An instance of Zope, for tests and the document `zope.txt`."""
# SPDX-License-Identifier: ZPL-2.1
import base64
import contextlib
import json
import os
import pathlib
import textwrap
import urllib.error
import urllib.request

from lovely.remotetask.testing import PATIENCE
from lovely.remotetask.testing import Process


#: Seconds in which a Zope has to do what it does within a few.
LONG = 4 * PATIENCE

ZOPE_CONF = """\
%import ZEO
instancehome {directory}
<zodb_db main>
  mount-point /
  {storage}
</zodb_db>
{product}
"""

ZOPE_INI = """\
[app:zope]
use = egg:Zope#main
zope_conf = %(here)s/zope.conf

# As pages.txt says.
[filter:pages]
paste.filter_app_factory = lovely.remotetask.web.pipeline:pages
path = /remotetask

[pipeline:main]
pipeline =
    pages
    egg:Zope#httpexceptions
    zope

[server:main]
use = egg:waitress#main
host = 127.0.0.1
port = 0

[loggers]
keys = root

[handlers]
keys = console

[formatters]
keys = line

[logger_root]
level = INFO
handlers = console

[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = line

[formatter_line]
format = %(name)s: %(message)s
"""

PROCESSOR_CONF = """\
site-definition {directory}/etc/site.zcml
{database}
<frontend>
  address 127.0.0.1:0
</frontend>
<processor>
  name host
  lease 5s
</processor>
"""


class Instance:
    """A Zope on a ZEO: its directory, its scripts, and its server while it runs."""

    def __init__(self, zeo, directory, product=''):
        self.zeo, self.directory, self.address, self.server = zeo, directory, None, None
        self.environment = {'PYTHONWARNINGS': 'ignore'}
        os.mkdir(os.path.join(directory, 'etc'))
        os.mkdir(os.path.join(directory, 'var'))
        self.write('zope.ini', ZOPE_INI)
        self.configure(product)

    def configure(self, product):
        """Write the configuration file; `product` is the text of its sections for products."""
        config = self.zeo.config
        storage = config[config.index('<clientstorage>'):config.index('</zodb>')]
        self.write('zope.conf', ZOPE_CONF.format(directory=self.directory, storage=storage, product=product))

    def write(self, name, text):
        path = os.path.join(self.directory, name)
        pathlib.Path(path).write_text(text)
        return path

    def process(self, *arguments):
        """Return a process of Python with the arguments."""
        return Process(arguments, self.directory, self.environment)

    def ended(self, process):
        """Wait for the end of a process; return its exit code and the text that it has written."""
        with contextlib.closing(process):
            code = process.popen.wait(LONG)
            process._reader.join(PATIENCE)
            return code, ''.join(process.said)

    def host(self, *arguments, command='processor'):
        """Return the process of a processing host or another command; `arguments` are instead of our own program."""
        self.write('host.conf', PROCESSOR_CONF.format(directory=self.directory, database=self.zeo.config))
        return self.process(*(arguments or ('-m', 'lovely.remotetask.cli.main')), '-C', 'host.conf', command)

    def console(self, *texts):
        """Run a script of these parts by `zconsole run`; return the exit code and the text that has been written."""
        path = self.write('script.py', 'import json\n' + ''.join(map(textwrap.dedent, texts)))
        return self.ended(self.process('-m', 'Zope2.utilities.zconsole', 'run', 'zope.conf', path))

    def script(self, *texts):
        """Run a script of these parts; return what it has printed last behind >>>, read as JSON, None when nothing."""
        code, said = self.console(*texts)
        if code:
            raise AssertionError(said)
        lines = [line[4:] for line in said.splitlines() if line.startswith('>>> ')]
        return json.loads(lines[-1]) if lines else None

    def start(self):
        """Start the server."""
        # A shell has what it runs in the background ignore SIGINT, and so the tests and what they start.
        self.server = self.process('-c', 'import signal\n'
                                   'signal.signal(signal.SIGINT, signal.default_int_handler)\n'
                                   'from Zope2.Startup.serve import main; main()', 'zope.ini')
        self.address = self.server.waitFor('waitress: Serving on ', LONG)

    def get(self, path, user=None):
        """Return the status and the body of a page; `user` is the text name:password."""
        request = urllib.request.Request(self.address + path)
        if user:
            request.add_header('Authorization', 'Basic ' + base64.b64encode(user.encode()).decode())
        try:
            with urllib.request.urlopen(request, timeout=LONG) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def close(self):
        """End the server."""
        if self.server is not None:
            self.server.close()
            self.server = None
