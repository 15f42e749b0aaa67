"""The program `remotetask`, as `python -m lovely.remotetask`."""
# SPDX-License-Identifier: ZPL-2.1
from lovely.remotetask.cli.main import main


if __name__ == '__main__':
    main()
