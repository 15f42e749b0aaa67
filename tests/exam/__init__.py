"""The exam: real processes, faults at random, and a ledger of effects that shows what was promised and what was kept.

`tasks` is what the jobs do, `deployment` the processes they run in, `storages` their database server.  `load` is the
clients that add jobs, and `orders` what they add.  `scenarios` is what happens meanwhile, in the frame of a `trial`.
`judge` is what must be true afterwards, `running` brings all this together, and `main` is the command.

An accepted job is durable.  What its task writes to the same database happens exactly once, other effects at least
once; and a host that was given up can never commit.
"""
# SPDX-License-Identifier: ZPL-2.1
