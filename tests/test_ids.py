"""The ids that jobs get."""
# SPDX-License-Identifier: ZPL-2.1
import unittest

import transaction
from zope.component import provideUtility

from lovely.remotetask.service import TaskService
from lovely.remotetask.task import SimpleTask
from zeocase import ZEOCase


class TestIds(ZEOCase):

    level = 2

    def add(self, service, manager):
        jobid = service.add('note')
        manager.commit()
        return jobid

    def test_they_count_on(self):
        provideUtility(SimpleTask(len), name='note')
        first, number = self.add(self.service, self.manager), 0
        for number in range(1, 6):
            self.assertEqual(self.add(self.service, self.manager), first + number)
            self.service.pause() if number % 2 else self.service.resume()
            self.manager.commit()
            self.connection.cacheMinimize()                     # the service is loaded anew
            self.service._p_deactivate()
        self.assertEqual(self.service.addCronJob('note', hour=[2]), first + 6)
        self.manager.abort()

    def test_writers_are_apart(self):
        provideUtility(SimpleTask(len), name='note')
        starts = set()
        for _ in range(5):
            manager = transaction.TransactionManager()
            connection = self.db.open(manager)
            self.addCleanup(connection.close)
            self.addCleanup(manager.abort)
            service = connection.root()['Application']['TaskService']
            jobids = [self.add(service, manager) for _ in range(3)]
            self.assertEqual(jobids, list(range(jobids[0], jobids[0] + 3)))
            starts.add(jobids[0] >> 10)
        self.assertEqual(len(starts), 5)

    def test_before_the_service_is_in_a_database(self):
        provideUtility(SimpleTask(len), name='note')
        service = self.connection.root()['other'] = TaskService()
        first = service.add('note')
        self.assertEqual(service.add('note'), first + 1)
        self.manager.commit()
        self.assertEqual(service.add('note'), first + 2)
        self.manager.commit()
        self.connection.cacheMinimize()
        self.assertEqual(service.add('note'), first + 3)


if __name__ == '__main__':
    unittest.main()
