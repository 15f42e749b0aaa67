"""What knows nothing of tasks: checks of arguments, lines of a log, processes, private names of other libraries."""
# SPDX-License-Identifier: ZPL-2.1
