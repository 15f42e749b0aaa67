"""When a schedule has its times, and which of those that were missed are made up for.  Pure: time is an argument."""
# SPDX-License-Identifier: ZPL-2.1
