"""The daemon's files: records in, records out, and what cannot be read moved aside.

A record is written whole into `tmp/` and renamed; the rename is the commit, and the only one. No fsync: a kill needs
none, and a power loss voids the namespaces that the records speak of. Closing an attachment writes its last record
into `history/` and then unlinks it from `attachments/`, so a kill between the two leaves a torn-down record that is
closed again, under the same name.

A full disk is an outcome, not a fault: `save` and `close` answer with `NoSpace` and the engine decides who may go on
without the file (a teardown may, an ADD may not).

Nothing here is deleted because it could not be understood: it goes to `quarantine/` with the reason beside it.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import orjson

from reconciler.exchange import replace
from statemachine.attachment import Attachment, Damaged, UnknownVersion, decode, encode, file_name
from statemachine.history import history_name, to_prune

DIRECTORIES = ("tmp", "intents", "results", "attachments", "history", "quarantine")
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class NoSpace:
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class LockHeld:
    holder: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    path: str
    reason: str


class Store:
    def __init__(self, root: Path) -> None:
        self.root = root
        self._serial = 0
        self._lock_fd: int | None = None
        self.left_alone: list[Unreadable] = []  # records of a newer version, seen at the last load

    def prepare(self) -> None:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in DIRECTORIES:
            (self.root / name).mkdir(mode=0o700, exist_ok=True)

    def lock(self) -> LockHeld | None:
        """Held until the process ends, however it ends; plugins look at it to see whether a daemon lives.

        A file that was removed between its opening and its locking (an uninstall ends so) locks nobody out.
        """
        fd = os.open(self.root / "daemon.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 200, 0).decode("utf-8", "replace").strip()
            os.close(fd)
            return LockHeld(holder or "a plugin that is just looking")
        self._lock_fd = fd
        if not self.lock_is_ours():
            self.unlock()
            return self.lock()
        _sign(fd)
        return None

    def lock_is_ours(self) -> bool:
        """False: somebody removed or replaced `daemon.lock`, and a second daemon may start, or has."""
        if self._lock_fd is None:
            return False
        try:
            return os.path.samestat(os.stat(self.root / "daemon.lock"), os.fstat(self._lock_fd))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def unlock(self) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def write(self, relative: str, content: bytes) -> NoSpace | None:
        self._serial += 1
        draft = f"{self.root}/tmp/daemon.{os.getpid()}.{self._serial}"
        target = f"{self.root}/{relative}"
        try:
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                _write_all(fd, content)
            finally:
                os.close(fd)
            replace(draft, target)
        except FileNotFoundError:
            _unlink(draft)
            self.prepare()  # somebody removed a directory under us
            return self.write(relative, content)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            _unlink(draft)
            return NoSpace(target, os.strerror(error.errno))
        return None

    def remove(self, relative: str) -> None:
        _unlink(f"{self.root}/{relative}")

    # --- records

    def save(self, record: Attachment) -> NoSpace | None:
        return self.write("attachments/" + file_name(record.key), encode(record))

    def close(self, record: Attachment) -> NoSpace | None:
        """The record leaves `attachments/` in any case; with a full disk it leaves no history."""
        no_space = self.write("history/" + history_name(record), encode(record))
        self.forget(record.key)
        return no_space

    def forget(self, key: str) -> None:
        self.remove("attachments/" + file_name(key))

    def load(self) -> Iterator[Attachment]:
        self.left_alone = []
        for file in _listing(self.root / "attachments"):
            record = self._read_record(file)
            if record is not None:
                yield record

    def _read_record(self, file: str) -> Attachment | None:
        path = f"{self.root}/attachments/{file}"
        try:
            record = decode(read_bytes(path))
        except UnknownVersion as error:
            self.left_alone.append(Unreadable(path, str(error)))
            return None
        except Damaged as error:
            self.quarantine(path, str(error))
            return None
        except OSError as error:
            self.quarantine(path, f"cannot be read: {os.strerror(error.errno or 0)}")
            return None
        if file != file_name(record.key):
            self.quarantine(path, f"the file's name does not belong to its content, {record.key}")
            return None
        return record

    # --- what could not be read

    def quarantine(self, path: str, reason: str) -> None:
        self.prepare()
        name = self._free_name(os.path.basename(path))
        target = f"{self.root}/quarantine/{name}"
        try:
            os.rename(path, target)
        except FileNotFoundError:
            return
        self.write(f"quarantine/{name}.reason", (reason + "\n").encode())
        self.left_alone.append(Unreadable(target, reason))

    def salvaged(self, boot_id: str) -> Iterator[tuple[str, list[IPv4Address | IPv6Address]]]:
        """The addresses of this boot that unreadable records still name: somebody may have them."""
        paths = [each.path for each in self.left_alone if "/attachments/" in each.path]
        paths += [f"{self.root}/quarantine/{name}" for name in _listing(self.root / "quarantine")]
        for path in paths:
            key = os.path.basename(path).partition("~")[0].removesuffix(".json")
            if "@" in key and not path.endswith(".reason"):
                yield key, _addresses_in(path, boot_id)

    def _free_name(self, name: str) -> str:
        """Nothing in quarantine is overwritten by what comes later under the same name."""
        taken = itertools.chain([name], (f"{name}~{serial}" for serial in itertools.count(1)))
        return next(each for each in taken if not os.path.lexists(f"{self.root}/quarantine/{each}"))

    def unreadable_keys(self) -> set[str]:
        """Attachments that exist, perhaps, although their record cannot be read."""
        quarantined = _listing(self.root / "quarantine")
        newer = [os.path.basename(each.path) for each in self.left_alone]
        names = [name.partition("~")[0] for name in (*quarantined, *newer)]
        return {name.removesuffix(".json") for name in names if name.endswith(".json") and "@" in name}

    def quarantined(self) -> int:
        return sum(not name.endswith(".reason") for name in _listing(self.root / "quarantine"))

    # --- housekeeping

    def recently_closed(self) -> Iterator[Attachment]:
        """The history, newest first; unreadable ones are of no use and passed over."""
        for name in reversed(_listing(self.root / "history")):
            try:
                yield decode(read_bytes(f"{self.root}/history/{name}"))
            except (Damaged, UnknownVersion, OSError):
                continue

    def prune_history(self, now: float, max_records: int, max_days: float) -> int:
        doomed = to_prune(_listing(self.root / "history"), now, max_records, max_days)
        for name in doomed:
            _unlink(f"{self.root}/history/{name}")
        return len(doomed)

    def sweep_drafts(self) -> None:
        """At start, under the lock: drafts of a daemon are of no use to anybody; a plugin's may be in the making."""
        for name in _listing(self.root / "tmp"):
            if name.startswith("daemon."):
                _unlink(f"{self.root}/tmp/{name}")


def _sign(lock: int) -> None:
    """For who is refused. A full disk must not keep a daemon from starting: it has deletes to do."""
    try:
        size = os.pwrite(lock, f"pid {os.getpid()}\n".encode(), 0)
        os.ftruncate(lock, size)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise


def read_bytes(path: str) -> bytes:
    """Half the time of `open().read()`, which matters ten thousand records at a time."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.read(fd, 1 << 16)
        if len(content) < 1 << 16:
            return content
        pieces = [content]
        while piece := os.read(fd, 1 << 20):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(fd)


def _addresses_in(path: str, boot_id: str) -> list[IPv4Address | IPv6Address]:
    try:
        body = orjson.loads(read_bytes(path))
        if body["boot_id"] != boot_id:
            return []
        return [ip_address(each["address"].partition("/")[0]) for each in body["addresses"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []  # damaged beyond this, too


def _listing(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []


def _write_all(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
