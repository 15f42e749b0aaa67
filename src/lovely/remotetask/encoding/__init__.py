"""Values as bytes: plain data, and the row that a job is written as.  No database."""
# SPDX-License-Identifier: ZPL-2.1
