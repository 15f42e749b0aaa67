"""Functions that tests run in threads of their own."""
# SPDX-License-Identifier: ZPL-2.1
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
