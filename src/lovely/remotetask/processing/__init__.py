"""Processing hosts: they claim jobs, run them in threads, record what came of them, and take over from lost hosts."""
# SPDX-License-Identifier: ZPL-2.1
