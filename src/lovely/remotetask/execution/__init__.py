"""The run of a job: its task, in a thread or in a process of its own, and what becomes of it when its host is lost."""
# SPDX-License-Identifier: ZPL-2.1
