"""Functions that tests run in threads of their own."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import threading


def inThread(function, *arguments):
    """Start the function in a thread; return the thread and a list that gets its result or exception."""
    outcome = []

    def run():
        try:
            outcome.append(function(*arguments))
        except BaseException as error:
            outcome.append(error)
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


@contextlib.contextmanager
def noMoreThreads():
    """While entered, this process can start no thread: the system has no room for a stack of that size."""
    before = threading.stack_size(1 << 46)
    try:
        yield
    finally:
        threading.stack_size(before)
