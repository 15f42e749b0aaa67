"""XML-RPC, in two halves: what server and clients share, and the front end, which runs no task.

Shared, and without a database: `calls` is the table of what can be called, made of what `signature` has; `faults` says
what a caller is told when something is refused or fails; `wire` writes plain data as XML.

The front end takes calls over HTTP, and answers from the database.  `server` listens, and runs an event loop of
asyncio; it holds all clients to the limits.  `protocol` is a connection of a client, `handler` the coroutine that reads
its requests and answers them, with `head`, `chunked`, `body` and `response` for their syntax, `permits` for what may be
done at a time, `access` for who may call, and `accesslog` to note it.  `parser` reads a call, `dispatcher` has the
function run that `methods` has for it, with `structs` of jobs and `placing` of the files that jobs take, and `results`
makes plain data of what that returns.
`gateway` is the way to the database, over the `bridge` from the event loop to its threads: `pending` is a call that
waits for one, `session` a thread's connection, `committing` has writes share transactions; `waiting` watches jobs.
"""
# SPDX-License-Identifier: ZPL-2.1
