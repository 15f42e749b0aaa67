"""The program of a client: adds jobs in the database, or calls a frontend, and says how long it took.

It reads orders from its standard input and answers to its standard output, each a line of JSON.  An order is prepared,
answered by {"ready": true}, carried out when another line comes, and answered by what a method of `Orders` returns.
"""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import json
import sys
import threading
import time
import xmlrpc.client

import transaction
from ZODB.POSException import ConflictError

from lovely.remotetask.config import load
from lovely.remotetask.database import Database
from lovely.remotetask.sites import ROOT_NAME
from lovely.remotetask.sites import atPath
from lovely.remotetask.zcml import loadSite


#: Jobs that a client adds before it is measured.
WARM = 5


def addJobs(db, path, jobs, batch=1):
    """Add jobs and return how often a transaction was repeated because of a conflict.

    db -- a `ZODB.DB`.
    path -- of the service, names.
    jobs -- pairs of the name of a task and an input.
    batch -- how many are added in a transaction.
    """
    conflicts, manager = 0, transaction.TransactionManager(explicit=True)
    with contextlib.closing(db.open(manager)) as connection:
        for start in range(0, len(jobs), batch):
            while True:
                manager.begin()
                try:
                    service = atPath(connection.root()[ROOT_NAME], path)
                    for task, input in jobs[start:start + batch]:
                        service.add(task, input)
                    manager.commit()
                    break
                except ConflictError:
                    manager.abort()
                    conflicts += 1
                except BaseException:
                    manager.abort()
                    raise
    return conflicts


class Orders:
    """What can be ordered; each method prepares it and returns a callable that does it and returns a dict."""

    def __init__(self):
        self._closing = contextlib.ExitStack()
        self._siteLoaded = False

    def add(self, configuration, path, jobs):
        """Add jobs in the database, one by one.

        configuration -- the path of a configuration file.
        """
        self._closing.close()
        settings = load(configuration)
        if not self._siteLoaded:
            loadSite(settings.siteDefinition)
            self._siteLoaded = True
        database = Database(settings.database.open)
        self._closing.callback(database.close)
        addJobs(database.db, path, jobs[:WARM])         # what a client loads once is not the cost of each job
        return lambda: {'conflicts': addJobs(database.db, path, jobs)}

    def call(self, url, method, arguments, threads):
        """Call a method once for each element of `arguments`, a list, in so many threads with a connection each."""
        # Before the start, for all that a first call takes.
        proxies = [xmlrpc.client.ServerProxy(url, allow_none=True) for _ in range(threads)]
        for proxy in proxies:
            proxy.isProcessing()
        errors = []

        def calls(proxy, share):
            try:
                for each in share:
                    getattr(proxy, method)(*each)
            except Exception as error:
                errors.append(f'{type(error).__name__}: {error}')

        def run():
            workers = [threading.Thread(target=calls, args=(proxy, arguments[number::threads]))
                       for number, proxy in enumerate(proxies)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            return {'error': errors[0]} if errors else {}

        return run


def main():
    """Carry out orders until the standard input ends."""
    orders = Orders()
    for line in sys.stdin:
        order = json.loads(line)
        run = getattr(orders, order.pop('do'))(**order)
        print(json.dumps({'ready': True}), flush=True)
        sys.stdin.readline()
        began = time.monotonic()
        answer = run()
        print(json.dumps({'began': began, 'ended': time.monotonic(), **answer}), flush=True)


if __name__ == '__main__':
    main()
