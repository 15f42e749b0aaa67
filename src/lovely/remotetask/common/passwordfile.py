"""A password in a file of its own: read, and refused when others could read it as well."""
# SPDX-License-Identifier: ZPL-2.1
import os
import stat


#: Bytes of the first line at the most.
LONGEST_LINE = 1024


def readPassword(path: str) -> str:
    """Return the password that is the first line of a file, without the end of the line.

    path -- of the file, a text.

    Like ssh with its keys, refuse a file of the user of this process that other users of the machine may read or
    change.  One that belongs to somebody else, such as a secret that root has put there, is taken as it is.

    Raise `ValueError`, with a sentence, for a file that cannot be read, is open to others, or has no such line.
    """
    try:
        with open(path, 'rb') as file:
            status = os.fstat(file.fileno())
            if status.st_uid == os.getuid() and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise ValueError(f'{path}: the password file is open to other users of this machine: chmod 600 it')
            line = file.readline(LONGEST_LINE + 2)          # with the end of the line
    except OSError as error:
        raise ValueError(f'{path}: cannot read the password file: {error.strerror}') from error
    line = line.removesuffix(b'\n').removesuffix(b'\r')
    if not line:
        raise ValueError(f'{path}: the password file has no password in its first line')
    if len(line) > LONGEST_LINE:
        raise ValueError(f'{path}: the first line of the password file has more than {LONGEST_LINE} bytes')
    try:
        return line.decode('utf-8')
    except UnicodeDecodeError:
        raise ValueError(f'{path}: the password is not encoded in UTF-8') from None
