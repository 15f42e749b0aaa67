"""What is in the database: queues, claims, schedules, and what each transaction does to them.  No thread."""
# SPDX-License-Identifier: ZPL-2.1
