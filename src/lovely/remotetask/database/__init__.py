"""The object database: opening it, hearing of commits, leaving a server that hangs, packing."""
# SPDX-License-Identifier: ZPL-2.1
