"""What callers are told: every exception has a code, and no sentence gives internals away."""
# SPDX-License-Identifier: ZPL-2.1
import inspect
import unittest

import transaction.interfaces
from ZEO.Exceptions import ClientDisconnected
from ZODB.POSException import ConflictError
from ZODB.POSException import POSKeyError
from ZODB.POSException import ReadOnlyError

from lovely.remotetask import errors
from lovely.remotetask.xmlrpc import faults


class TestTable(unittest.TestCase):

    def test_everyErrorOfTheFamilyHasACode(self):
        family = {value for module in (errors, faults) for value in vars(module).values()
                  if inspect.isclass(value) and issubclass(value, errors.RemoteTaskError)}
        self.assertEqual(family - {entry.exception for entry in faults.TABLE}, set())

    def test_codesTellTheErrorsApart(self):
        codes = {}
        for entry in faults.TABLE:
            codes.setdefault(entry.code, []).append(entry.exception)
        shared = [code for code, exceptions in codes.items() if len(exceptions) > 1]
        self.assertEqual(shared, [faults.DATABASE_UNAVAILABLE])
        self.assertEqual(len({entry.exception for entry in faults.TABLE}), len(faults.TABLE))


class TestFaultFor(unittest.TestCase):

    def test_ownErrorsSpeakForThemselves(self):
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
                (faults.ResultTooLarge(5), 107, 'the result is larger than 5 bytes, the most that is '
                                                   'sent; getResultPart gives a file, bytes or text in parts')):
            self.assertEqual(faults.faultFor(exception, 'id'), (code, sentence))

    def test_subclassesAreAnsweredAsTheirBase(self):
        class Special(errors.InvalidInput):
            pass
        self.assertEqual(faults.faultFor(Special('', 'no'), 'id'), (faults.INVALID_INPUT, 'input: no'))

    def test_databaseErrorsAreToBeTriedAgain(self):
        for exception in (ConflictError(), ClientDisconnected('127.0.0.1'), ReadOnlyError('/var/data.fs'),
                          transaction.interfaces.TransientError('secret'), faults.DatabaseUnavailable()):
            self.assertEqual(faults.faultFor(exception, 'id'), (
                faults.DATABASE_UNAVAILABLE, 'the database is not available and nothing was changed: try again'))

    def test_othersAreInternal(self):
        for exception in (ValueError('secret'), KeyError('secret'), POSKeyError(b'\0' * 8), MemoryError(),
                          OSError(2, 'x')):
            self.assertEqual(faults.faultFor(exception, 'abc'), (
                faults.INTERNAL_ERROR,
                'internal error; the log of the frontend has the details under the request id abc'))


if __name__ == '__main__':
    unittest.main()
