"""The XML-RPC frontend: takes calls over HTTP, answers from the database, runs no task.

`server` listens, and moves each connection between a `lot`, where it waits in one thread with all others, and a `crew`
of threads, when there is something to do for it.  `conversation` speaks HTTP over a `connection`, with `head` for what
comes before a call; `accesslog` notes it.  `wire` speaks XML-RPC; `methods` is the table of what can be called,
`gateway` the way to the database, `waiting` watches jobs there, `faults` says what a caller is told when something is
refused or fails.
"""
# SPDX-License-Identifier: ZPL-2.1
