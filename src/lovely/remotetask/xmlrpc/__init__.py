"""The XML-RPC frontend: takes calls over HTTP, answers from the database, runs no task.

`server` listens, and runs an event loop of asyncio; it holds all clients to the limits.  `protocol` is a connection of
a client, `handler` the coroutine that reads its requests and answers them, with `head` and `chunked` for their syntax,
`permits` for what may be done at a time, `access` for who may call, and `accesslog` to note it.  `dispatcher` calls
what is in the table of `methods`, and `wire` speaks XML-RPC.  `gateway` is the way to the database, over the `bridge`
from the event loop to its threads; `waiting` watches jobs there; `faults` says what a caller is told when something is
refused or fails.
"""
# SPDX-License-Identifier: ZPL-2.1
