"""Replacing a file at once, without making the disk write it at once.

`rename` over a file that exists is how one replaces it so that no reader and no kill ever sees half of it. But ext4
takes it for a sign that somebody wants the new content safe, and starts writing: 0.1 to 0.3 ms, and milliseconds on a
busy disk, for a safety that records do not need (a power loss voids the namespaces they speak of). Exchanging the two
names is as atomic, is taken for nothing else, and takes a tenth. What was replaced is then under the draft's name.

Linux has it since 3.15; a file system without it says so, and gets the rename.
"""

from __future__ import annotations

import ctypes
import errno
import os

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL)

_libc = ctypes.CDLL(None, use_errno=True)


def replace(draft: str, target: str) -> None:
    """As `os.rename`, whether `target` exists or not; `draft` is gone afterwards."""
    if _exchange(draft, target):
        os.unlink(draft)
    else:
        os.rename(draft, target)


def _exchange(one: str, other: str) -> bool:
    renameat2 = getattr(_libc, "renameat2", None)  # glibc 2.28, musl 1.2.4
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number == errno.ENOENT or number in _UNSUPPORTED:
        return False  # there is nothing to replace yet, or this is not to be had here: rename tells
    raise OSError(number, os.strerror(number), one, None, other)
