"""What an operator sets: the configuration file, ZCML, users, limits, services to start."""
# SPDX-License-Identifier: ZPL-2.1
