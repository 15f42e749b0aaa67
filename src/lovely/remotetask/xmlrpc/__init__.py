"""The XML-RPC frontend: takes calls over HTTP, answers from the database, runs no task.

`server` speaks HTTP, `wire` XML-RPC; `methods` is the table of what can be called, `gateway` the way to the database,
`faults` what a caller is told when something is refused or fails.
"""
# SPDX-License-Identifier: ZPL-2.1
