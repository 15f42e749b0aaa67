"""What callers are told: every exception has a code, and no sentence gives internals away."""
# SPDX-License-Identifier: ZPL-2.1
import inspect
import os
import shutil
import tempfile
import unittest
import xmlrpc.client

import transaction.interfaces
import zope.interface
import zope.schema
from ZEO.Exceptions import ClientDisconnected
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import ConflictError
from ZODB.POSException import POSKeyError
from ZODB.POSException import ReadOnlyError
from ZODB.POSException import StorageTransactionError
from zope.component import provideUtility

from lovely.remotetask import errors
from lovely.remotetask.config.users import User
from lovely.remotetask.config.users import Users
from lovely.remotetask.config.users import addUser
from lovely.remotetask.config.users import hashPassword
from lovely.remotetask.storage.uploads import USER_SIZE
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.xmlrpc import faults
from lovely.remotetask.xmlrpc.access import Authenticator
from lovely.remotetask.xmlrpc.calls import RESULT_SIZE
from lovely.remotetask.xmlrpc.dispatcher import faultOf
from servercase import ServerCase
from test_xmlrpc_server import Raising
from waits import PATIENCE


class TestTable(unittest.TestCase):

    def test_every_error_of_the_family_has_a_code(self):
        family = {value for module in (errors, faults) for value in vars(module).values()
                  if inspect.isclass(value) and issubclass(value, errors.RemoteTaskError)}
        self.assertEqual(family - {entry.exception for entry in faults.TABLE}, set())

    def test_codes_tell_the_errors_apart(self):
        self.assertEqual(len({entry.code for entry in faults.TABLE}), len(faults.TABLE))
        self.assertEqual(len({entry.exception for entry in faults.TABLE}), len(faults.TABLE))


class TestFaultFor(unittest.TestCase):

    def test_own_errors_speak_for_themselves(self):
        for exception, code, sentence in (
                (errors.UnknownJob(5), 103, 'there is no job 5'),
                (errors.UnknownService('/x'), 101, "there is no task service at '/x'"),
                (errors.UnknownTask('x', ['b', 'a']), 102,
                 "task 'x' is not registered; the registered tasks are: a, b"),
                (errors.WrongState(5, 'completed', 'cancel'), 104, 'job 5 is completed: cannot cancel it'),
                (errors.InvalidInput('size', 'too small'), 105, "input field 'size': too small"),
                (errors.RemoteTaskError('no'), 100, 'no'),
                (faults.ParseError('no'), -32700, 'no'),
                (faults.UnknownMethod('x'), -32601,
                 "there is no method 'x'; system.listMethods names those there are"),
                (faults.BadArguments('no'), -32602, 'no'),
                (faults.WrongArity('no'), 114, 'no'),
                (faults.WrongType('no'), 115, 'no'),
                (faults.ResultTooLarge(5), 107, 'the result is larger than 5 bytes, the most that is '
                                                   'sent; getResultPart gives a file, bytes or text in parts')):
            self.assertEqual(faults.faultFor(exception, 'id'), (code, sentence))

    def test_subclasses_are_answered_as_their_base(self):
        class Special(errors.InvalidInput):
            pass
        self.assertEqual(faults.faultFor(Special('', 'no'), 'id'), (faults.INVALID_INPUT, 'input: no'))

    def test_database_errors_are_to_be_tried_again(self):
        for exception in (ConflictError(), ClientDisconnected('127.0.0.1'), ReadOnlyError('/var/data.fs'),
                          transaction.interfaces.TransientError('secret'), faults.DatabaseUnavailable()):
            self.assertEqual(faultOf(exception, 'id'), (
                faults.DATABASE_UNAVAILABLE, 'the database is not available and nothing was changed: try again'))

    def test_others_are_internal(self):
        for exception in (ValueError('secret'), KeyError('secret'), POSKeyError(b'\0' * 8), MemoryError(),
                          OSError(2, 'x')):
            self.assertEqual(faultOf(exception, 'abc'), (
                faults.INTERNAL_ERROR,
                'internal error; the log of the front end has the details under the request id abc'))


class IFilm(zope.interface.Interface):

    rate = zope.schema.Int(min=1, max=60)


class Choosy(SimpleTask):
    """A task that raises what it likes when it looks at its input."""

    def checkInput(self, input):
        raise errors.TaskError('the film is already known')


class TestEachCode(ServerCase):
    """What a client gets to see of each row of the table."""

    def setUp(self):
        super().setUp()
        provideUtility(SimpleTask(len, inputSchema=IFilm), name='film')
        provideUtility(Choosy(len), name='choosy')
        self.seen = set()

    def assertTold(self, code, sentence, function, *arguments):
        with self.assertRaises(xmlrpc.client.Fault) as caught:
            function(*arguments)
        self.assertEqual((caught.exception.faultCode, caught.exception.faultString), (code, sentence))
        self.seen.add(code)

    def test_each_has_a_sentence_of_its_own(self):
        proxy = self.proxy()
        jobid = proxy.add('echo')
        large = proxy.add('echo')
        with self.db.transaction() as connection:
            connection.root()['/'].jobs[large].output = [b'x' * 2 ** 20] * (RESULT_SIZE // 2 ** 20 + 1)
        self.assertTold(faults.PARSE_ERROR,
                        'the request is not well-formed XML in utf-8: no element found, line 1, column 0',
                        lambda: xmlrpc.client.loads(self.post(b'')[2]))
        for code, sentence, method, arguments in (
                (faults.UNKNOWN_METHOD, "there is no method 'nope'; system.listMethods names those there are",
                 'nope', ()),
                (faults.WRONG_ARITY,
                 'cancel: the arguments are (jobid), of which the first 1 are required; 2 were given',
                 'cancel', (1, 2)),
                (faults.WRONG_TYPE, 'cancel: the argument jobid is to be int, string was given', 'cancel', ('1',)),
                (faults.BAD_ARGUMENTS, 'getResultPart: size must be 1 to 1048576', 'getResultPart', (jobid, 0, 0)),
                (faults.UNKNOWN_TASK,
                 "task 'nope' is not registered; the registered tasks are: choosy, echo, film, square",
                 'add', ('nope',)),
                (faults.UNKNOWN_JOB, 'there is no job 0', 'cancel', (0,)),
                (faults.WRONG_STATE, f'job {jobid} is queued: cannot retry it', 'retry', (jobid,)),
                (faults.INVALID_INPUT, "input field 'rate': Value is too big: 99", 'add', ('film', {'rate': 99})),
                (faults.INVALID_INPUT, "input field 'rate': Object is of wrong type: '5'",
                 'add', ('film', {'rate': '5'})),
                (faults.INVALID_INPUT, "input field 'rate': is missing", 'add', ('film', {})),
                (faults.INVALID_INPUT, "input field 'rats': there is no such field; the fields are rate",
                 'add', ('film', {'rats': 5})),
                (faults.TASK_ERROR, 'the film is already known', 'add', ('choosy',)),
                (faults.UNKNOWN_UPLOAD, str(errors.UnknownUpload('nope')), 'putUpload', ('nope', 0, b'x')),
                (faults.TOO_MANY_UPLOADS, f'uploads with 0 bytes wait for their jobs, and there are {USER_SIZE + 1} '
                 f'more; one user may have {USER_SIZE}', 'addUpload', ('choosy', USER_SIZE + 1.0)),
                (faults.RESULT_TOO_LARGE, str(faults.ResultTooLarge(RESULT_SIZE)), 'getResult', (large,))):
            self.assertTold(code, sentence, getattr(proxy, method), *arguments)
        self.assertTold(faults.UNKNOWN_SERVICE, "there is no task service at '/nope'", self.proxy('/nope').cancel, 1)
        with self.assertRaises(xmlrpc.client.Fault) as caught:
            proxy.getResultPart(jobid)
        self.assertEqual(caught.exception.faultCode, faults.REFUSED)
        self.seen.add(faults.REFUSED)
        self.checkDatabase(proxy)
        self.checkUser()
        # Those that no method gives, should a service raise them.
        for exception in (errors.NameTaken('a', 'b'), errors.ConfigurationError('no'), errors.Retry(5, 'no'),
                          errors.HostDied('a'), errors.TimeLimitExceeded(5), errors.WrongGeneration('no')):
            self.services['/raising'] = Raising(exception)
            code, sentence = faults.faultFor(exception, '')
            self.assertTold(code, sentence, self.proxy('/raising').getStatus, 1)
        self.assertEqual(self.seen, {entry.code for entry in faults.TABLE})

    def checkUser(self):
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        path = os.path.join(directory, 'users')
        addUser(path, User('vic', hashPassword('unguessable'), 'view'))
        free, self.frontend.authenticator = self.frontend.authenticator, Authenticator(Users(path))
        host, port = self.frontend.address
        with xmlrpc.client.ServerProxy(f'http://vic:unguessable@{host}:{port}/') as proxy:
            self.assertTold(faults.NOT_ALLOWED, 'clean needs the role manage', proxy.clean)
        self.frontend.authenticator = free

    def checkDatabase(self, proxy):
        committing = TransactionMetaData()
        self.storage.tpc_begin(committing)              # somebody else, for longer than callers wait
        deadline, self.gateway.deadline = self.gateway.deadline, 0.05
        self.assertTold(faults.DATABASE_UNAVAILABLE, str(faults.DatabaseUnavailable()), proxy.add, 'echo')
        self.gateway.deadline = deadline
        self.storage.tpc_abort(committing)
        finish = self.storage.tpc_finish

        def answerIsLost(*arguments):
            finish(*arguments)
            raise StorageTransactionError('the answer got lost')

        self.storage.tpc_finish = answerIsLost
        with self.assertLogs(level='ERROR'):
            self.assertTold(faults.OUTCOME_UNKNOWN, str(faults.OutcomeUnknown()), proxy.add, 'echo')
        self.storage.tpc_finish = finish
        self.gateway.stop(PATIENCE)
        self.assertTold(faults.STOPPING, str(faults.Stopping()), proxy.add, 'echo')
        self.gateway.start()


if __name__ == '__main__':
    unittest.main()
