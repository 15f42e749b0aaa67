"""The XML-RPC frontend: takes calls over HTTP, answers from the database, runs no task.

`server` listens; a `lot` speaks with all clients in one thread, and hands on to a `crew` of threads what takes long.
`conversation` speaks HTTP over a `connection`, with `head` for what comes before a call; `accesslog` notes it. `wire`
speaks XML-RPC; `methods` is the table of what can be called, `gateway` the way to the database, `waiting` watches jobs
there, `faults` says what a caller is told when something is refused or fails.
"""
# SPDX-License-Identifier: ZPL-2.1
