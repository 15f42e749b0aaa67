"""The exam: real processes, faults at random, and a ledger of effects that shows what was promised and what was kept.

`tasks` is what the jobs do, `deployment` the processes they run in, `load` the clients that add them, `scenarios` what
happens meanwhile, `judge` what must be true afterwards, and `main` the command.

An accepted job is durable.  What its task writes to the same database happens exactly once, other effects at least
once; and a host that was given up can never commit.
"""
# SPDX-License-Identifier: ZPL-2.1
