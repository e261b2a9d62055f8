"""The state directory as the operator's commands read it: without a lock, without a daemon, without writing.

The daemon may rename and unlink while this reads. A file that vanishes between the listing and the reading is not
an error, and live records are read before closed ones, so that an attachment which is closed meanwhile is seen twice
rather than not at all. What cannot be read is part of the answer (`Unreadable`), never the end of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cni.plugin import daemon_lives
from cni.spec import Code, Refusal
from reconciler.operate.status import Status, decode_status
from reconciler.store import read_bytes
from statemachine import attachment, history, intent
from statemachine.attachment import Attachment, Damaged, UnknownVersion
from statemachine.intent import Intent, IntentName

if TYPE_CHECKING:
    from reconciler.mesh.model import View
    from reconciler.settings import Network

Content = TypeVar("Content")


@dataclass(frozen=True, slots=True)
class Unreadable:
    file: str
    why: str
    newer: bool = False  # of a later version than this program: intact, and to be left alone


@dataclass(frozen=True, slots=True)
class Found:
    record: Attachment
    closed: float | None = None  # when, for one from the history


@dataclass(slots=True)
class StateDir:
    root: Path
    unreadable: list[Unreadable] = field(default_factory=list)  # of what was asked for so far

    def live(self) -> list[Found]:
        names = [name for name in self._names("attachments") if name.endswith(".json")]
        records = [self._read(f"attachments/{name}", attachment.decode) for name in names]
        return [Found(record) for record in records if record]

    def closed(self, not_before: float = 0.0) -> Iterator[Found]:
        """Oldest first; those closed before `not_before` are not even opened."""
        for name in self._names("history"):
            parsed = history.parse_name(name)
            if parsed and parsed.closed >= not_before:
                record = self._read(f"history/{name}", attachment.decode)
                if record:
                    yield Found(record, parsed.closed)

    def all(self, not_before: float = 0.0) -> list[Found]:
        live = self.live()
        return [*self.closed(not_before), *live]

    def intents(self) -> list[Intent]:
        """In the order they were made."""
        found: list[Intent] = []
        for file in self._names("intents"):
            name = intent.parse_name(file)
            if name is None:
                self.unreadable.append(Unreadable(f"intents/{file}", "the file's name is not that of an intent"))
                continue
            decoded = self._read(f"intents/{file}", _decoder_of(name))
            if decoded:
                found.append(decoded)
        return found

    def answered(self) -> frozenset[str]:
        """The stems of the intents that have an answer."""
        names = self._names("results")
        return frozenset(name.rpartition(".")[0] for name in names if name.endswith((".result", ".error")))

    def quarantine(self) -> list[Unreadable]:
        found = []
        for name in self._names("quarantine"):
            if not name.endswith(".reason"):
                reason = self._read(f"quarantine/{name}.reason", lambda raw: raw.decode("utf-8", "replace").strip())
                found.append(Unreadable(f"quarantine/{name}", reason or "no reason is noted"))
        return found

    def status(self) -> Status | None:
        return self._read("status.json", decode_status)

    def cluster_cidrs(self) -> tuple[Network, ...]:
        """As the daemon was told; none if it has not said."""
        said = self.status()
        return tuple([ip_network(each) for each in said.mesh.get("cluster_cidrs", ())]) if said else ()

    def mesh_view(self) -> View | None:
        from reconciler.mesh.viewfile import FILE, decode_view

        return self._read(FILE, decode_view)

    def daemon_lives(self) -> bool:
        return daemon_lives(os.fsencode(self.root))

    def _names(self, directory: str) -> list[str]:
        try:
            return sorted(os.listdir(self.root / directory))
        except FileNotFoundError:
            return []

    def _read(self, name: str, decode: Callable[[bytes], Content]) -> Content | None:
        try:
            return decode(read_bytes(f"{self.root}/{name}"))
        except FileNotFoundError:
            return None
        except Damaged as error:
            self.unreadable.append(Unreadable(name, str(error)))
        except UnknownVersion as error:
            self.unreadable.append(Unreadable(name, str(error), newer=True))
        except OSError as error:
            self.unreadable.append(Unreadable(name, os.strerror(error.errno or 0)))
        return None


def _decoder_of(name: IntentName) -> Callable[[bytes], Intent]:
    return lambda raw: intent.decode(name, raw)


def open_state(root: Path) -> StateDir | Refusal:
    try:
        names = os.listdir(root)
    except PermissionError:
        return Refusal(Code.IO_FAILURE, f"{root} may be read by root only", "run the command as root, or with sudo")
    except OSError as error:
        cure = "name the daemon's directory with --state-dir; on a new node, start the daemon first"
        return Refusal(Code.IO_FAILURE, f"{root}: {error.strerror}", cure)
    if names and not {"attachments", "intents", "history", "daemon.lock", "status.json"} & set(names):
        return Refusal(
            Code.IO_FAILURE, f"{root} holds no HeadCNI state", "name the daemon's directory with --state-dir"
        )
    return StateDir(root)
