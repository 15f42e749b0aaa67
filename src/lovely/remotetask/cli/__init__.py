"""The command line: `main` is the program, `local` its servers, `remote` its clients, `failure` how it fails."""
# SPDX-License-Identifier: ZPL-2.1
