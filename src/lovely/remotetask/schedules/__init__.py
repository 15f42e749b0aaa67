"""When a schedule has its times, and which missed times are made up for.  Pure: time is an argument."""
# SPDX-License-Identifier: ZPL-2.1
