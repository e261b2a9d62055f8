"""Files of the node that others wrote, read within bounds: what kind, how large, how long.

Whatever stands under such a name may be a directory (a volume of a file that was missing), a FIFO that never answers,
a hundred megabytes, or on a file system that hangs. None of these is a reason to start late or not at all: each is a
`Refusal` with the path and the cure. A file that is not there is `None`, for most of them never are.

The paths are the host's. A daemon in a container sees the host's files under another prefix, and then an absolute
symbolic link must lead to the host's file as well, not to the container's: so links are followed here.

Reading happens in one thread that is given up after a while, because no flag of `open` makes a dead NFS server answer.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterable
from pathlib import Path

from cni.spec import Refusal
from reconciler.kube.codes import Trouble

MAX_BYTES = 1 << 20
SECONDS = 1.0
MAX_LINKS = 40  # as the kernel's
MAX_NAMES = 1000

Outcome = bytes | Refusal | None
_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_KINDS = {
    stat.S_ISFIFO: "a FIFO",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def read_all(root: Path, paths: Iterable[str], seconds: float = SECONDS) -> dict[str, Outcome]:
    """By path. The time is for all of them together; those behind one that hangs are not read."""
    wanted = list(dict.fromkeys(paths))
    done: dict[str, Outcome] = {}
    thread = threading.Thread(
        target=lambda: done.update((path, read(root, path)) for path in wanted), name="files", daemon=True
    )
    thread.start()
    thread.join(seconds)
    found = dict(done)  # the thread may still be adding to the other
    late = [path for path in wanted if path not in found]
    if late:
        cure = "its file system hangs: see `mount` and `dmesg`; until it answers its files count as missing"
        hangs = _unreadable(below(root, late[0]), f"gave no answer within {seconds:g} s", cure)
        found.update(dict.fromkeys(late, hangs))
    return found


def read(root: Path, path: str) -> Outcome:
    """O_NONBLOCK: opening a FIFO does not wait for its writer."""
    at = below(root, path)
    try:
        fd = os.open(_real(root, at), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            return _wrong_kind(at, os.fstat(fd)) or _content(at, fd)
        finally:
            os.close(fd)
    except OSError as error:
        return None if error.errno in _ABSENT else _failed(at, error)


def names_in(root: Path, directory: str) -> tuple[str, ...]:
    """Of at most a thousand files; none of a directory that cannot be listed."""
    try:
        with os.scandir(_real(root, below(root, directory))) as entries:
            return tuple(sorted(entry.name for entry, _ in zip(entries, range(MAX_NAMES), strict=False)))
    except OSError:
        return ()


def only_root_writes(root: Path, path: str) -> bool:
    """This file and each directory on the way to it belong to root, and nobody else may write there."""
    at = below(root, path)
    try:
        real = Path(os.path.realpath(at)) if root == Path("/") else _real(root, at)
        way = [each.lstat() for each in (real, *real.parents) if each.is_relative_to(root)]
    except OSError:
        return False
    return not any(each.st_uid or each.st_mode & _others_write(each) for each in way)


def _others_write(found: os.stat_result) -> int:
    return stat.S_IWOTH | (stat.S_IWGRP if found.st_gid else 0)


def below(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _wrong_kind(at: Path, found: os.stat_result) -> Refusal | None:
    if stat.S_ISDIR(found.st_mode):
        cure = "mount a ConfigMap's key with subPath; or remove it: a volume of a missing file makes a directory"
        return _unreadable(at, "is a directory", cure)
    for is_kind, name in _KINDS.items():
        if is_kind(found.st_mode):
            return _unreadable(at, f"is {name}, not a file", "put the file there")
    if found.st_size > MAX_BYTES:
        return _too_large(at, f"{found.st_size} bytes")
    return None


def _content(at: Path, fd: int) -> bytes | Refusal:
    with os.fdopen(os.dup(fd), "rb") as file:
        content = file.read(MAX_BYTES + 1)
    return _too_large(at, "more") if len(content) > MAX_BYTES else content


def _too_large(at: Path, size: str) -> Refusal:
    cure = "no configuration is that large: put the right file there"
    return _unreadable(at, f"has {size}, and only {MAX_BYTES} are read", cure)


def _failed(at: Path, error: OSError) -> Refusal:
    if error.errno == errno.ENXIO:
        return _unreadable(at, "is a socket, not a file", "put the file there")
    if error.errno in (errno.EACCES, errno.EPERM):
        return _unreadable(at, "may not be read by this user", "run as root, or let root read it")
    return _unreadable(at, f"cannot be read: {error.strerror}", "make it readable, or remove it")


def _unreadable(at: Path, what: str, cure: str) -> Refusal:
    return Refusal(Trouble.SOURCE_UNREADABLE, f"{at} {what}", cure)


def _real(root: Path, at: Path) -> Path:
    """`at` without symbolic links, each of them taken as the host takes it: an absolute one begins at `root`."""
    if root == Path("/"):
        return at
    todo, done, links = list(reversed(at.relative_to(root).parts)), root, 0
    while todo:
        part = todo.pop()
        if part == "..":
            done = done.parent if done != root else root
            continue
        try:
            target = os.readlink(done / part)
        except OSError:  # no link, or not there: opening it tells
            done = done / part
            continue
        links += 1
        if links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(at))
        if target.startswith("/"):
            done = root
        todo += [each for each in reversed(target.split("/")) if each not in ("", ".")]
    return done
