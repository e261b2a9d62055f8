"""Files that appear whole: written beside their target under a dot name, and renamed when they are on the disk.

Whoever opens or executes the target has the old file or the new one, whole, at every instant and after a power loss.
A running program keeps its old file, so no file is ever busy. There is one dot name for each target: what a kill left
there is overwritten by the next attempt, and `sweep` finds it.

A file of somebody else that is in the way becomes `NAME.before-headcni`. Runtimes ignore both names.

Everything here raises OSError; `unusable` makes of one what an operator is told.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shlex
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cni.spec import Refusal
from reconciler.install.codes import Trouble
from reconciler.store import NO_SPACE

DRAFT = ".headcni-new"
ASIDE = ".before-headcni"


def draft_of(target: Path) -> Path:
    return target.with_name(f".{target.name}{DRAFT}")


def aside_of(target: Path) -> Path:
    return target.with_name(target.name + ASIDE)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def digest_at(path: Path) -> str:
    """Empty where there is no file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not make us wait
    except FileNotFoundError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "Not a file", str(path))
        with open(fd, "rb", closefd=False) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    finally:
        os.close(fd)


def draft(target: Path, content: bytes, mode: int) -> Path:
    path = draft_of(target)
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(fd, mode)  # whatever the umask is
        os.fsync(fd)
    return path


def commit(target: Path) -> None:
    os.rename(draft_of(target), target)


def sweep(targets: Iterable[Path]) -> list[Path]:
    """The drafts that were there, and are not any more."""
    left = [path for path in map(draft_of, targets) if os.path.lexists(path)]
    for path in left:
        path.unlink(missing_ok=True)
    return left


def sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def locked(directory: Path, wait: bool = True) -> Iterator[None]:
    """The directory itself is the lock, so nothing is left behind. BlockingIOError: somebody else has it."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def unusable(code: Trouble, key: str, directory: Path, error: OSError) -> Refusal:
    path = Path(error.filename or directory)
    at = "" if path == directory or path.name.endswith(DRAFT) else f": {path}"
    cure = foreign_owner(error, directory, path) or _cure(key, error.errno)
    return Refusal(code, f"{key} = {directory}{at}: {error.strerror}", cure)


def foreign_owner(error: OSError, *paths: Path) -> str:
    """The cure where root may not write because it is not the owner; empty where it is something else.

    Root in a container has no CAP_DAC_OVERRIDE. Some installers give the directories to a user of their own. Only the
    number is told: a container knows no name of a user of the node.
    """
    if error.errno != errno.EACCES or os.geteuid() != 0:
        return ""
    for path in paths:
        try:
            owner = os.stat(path).st_uid
        except OSError:
            continue
        if owner:
            return (
                f"run `chown root {shlex.quote(str(path))}` on the node: it belongs to uid {owner}, and in a container "
                "root writes only where it is the owner (no CAP_DAC_OVERRIDE)"
            )
    return ""


def _cure(key: str, number: int | None) -> str:
    if number in NO_SPACE:
        return "free space or inodes; what was there before is untouched"
    if number in (errno.ENOENT, errno.ENOTDIR):
        return f"create the directory, or name with {key} the one where the container runtime looks"
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        return (
            f"let root write there, or set {key}, and the container runtime with it, to a directory that can be written"
        )
    return "see that this can be done there; what was there before is untouched"
