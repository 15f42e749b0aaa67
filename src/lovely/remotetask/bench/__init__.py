"""Measuring a deployment: a service of its own, real processes around it, and what they achieve.

`settings` say what to measure, `tasks` are run by the hosts, `client` is the program that adds and asks.  `directory`,
`database` and `process` are the parts of a `stage`, which sets all of it up and clears it away.  `measures` are what is
measured, `report` shows it, `against` measures two checkouts in turns.
"""
# SPDX-License-Identifier: ZPL-2.1
