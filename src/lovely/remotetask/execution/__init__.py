"""One run of a job: its task, in a thread or in a process of its own."""
# SPDX-License-Identifier: ZPL-2.1
