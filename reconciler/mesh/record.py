"""`mesh.json`: what HeadCNI put into tailscaled's preferences, so that it can be taken out again.

Preferences outlive daemon, tailscaled and boot, and those of others stand among ours without a mark. So this record
is the only thing that tells ours from theirs, and the order is everything: it is on the disk (fsync of file and
directory, for a power loss, too) *before* a prefix is announced or a preference set, and what it says is forgotten
*after* the withdrawal was seen. The record may therefore name what never came to be, and never lacks what is there.

It speaks of one profile of tailscaled: the one joined to `control_url`. With another one nothing is ours.

Of a newer version it is left alone, and then nothing may be announced, withdrawn or set. Damaged, it goes into
quarantine, and a new one begins: what stands in the list then counts as somebody else's, and stays there. Rejected:
to claim whatever looks like ours, which would one day withdraw a route that a person announced.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

from cni.spec import Code, Refusal
from reconciler.mesh.controlurl import same_server
from reconciler.settings import Network
from reconciler.store import NO_SPACE, Store, read_bytes
from statemachine.envelope import Damaged, UnknownVersion, sealed, unsealed

FORMAT = "headcni/mesh/1"
FILE = "mesh.json"


@dataclass(frozen=True, slots=True)
class Changed:
    """A preference that we set."""

    before: Any
    ours: Any


@dataclass(frozen=True, slots=True)
class MeshRecord:
    control_url: str = ""  # as tailscaled had it
    announced: frozenset[Network] = frozenset()
    prefs: Mapping[str, Changed] = field(default_factory=dict)

    def written_for(self, control_url: str) -> bool:
        return not (self.announced or self.prefs) or same_server(self.control_url, control_url)


@dataclass(frozen=True, slots=True)
class Loaded:
    record: MeshRecord | None  # None: hands off
    trouble: Refusal | None = None


def in_order(networks: Iterable[Network]) -> tuple[Network, ...]:
    return tuple(sorted(networks, key=lambda each: (each.version, int(each.network_address), each.prefixlen)))


# --- on the disk


def load(store: Store) -> Loaded:
    path = f"{store.root}/{FILE}"
    try:
        return Loaded(decode(read_bytes(path)))
    except FileNotFoundError:
        return Loaded(MeshRecord())
    except UnknownVersion as error:
        cure = "use the program that wrote it; until then nothing is announced, withdrawn or set"
        return Loaded(None, Refusal(Code.IO_FAILURE, f"{path} is newer: {error}", cure))
    except OSError as error:
        what = f"{path} cannot be read: {os.strerror(error.errno or 0)}"
        cure = "see that it can; until the next start nothing is announced, withdrawn or set"
        return Loaded(None, Refusal(Code.IO_FAILURE, what, cure))
    except Damaged as error:
        reason = str(error)
    store.quarantine(path, reason)
    cure = (
        "look at it in quarantine/: what it calls announced and set stays as it is, also after an uninstall; take back "
        "by hand (`tailscale set`) what you do not want"
    )
    return Loaded(MeshRecord(), Refusal(Code.IO_FAILURE, f"{path} was damaged ({reason})", cure))


def save(store: Store, record: MeshRecord) -> Refusal | None:
    """Once this has returned None, the record survives a power loss."""
    target, draft = store.root / FILE, store.root / "tmp" / f"daemon.{os.getpid()}.mesh"
    try:
        _write(str(draft), encode(record))
        os.rename(draft, target)
        _sync_directory(str(store.root))
    except FileNotFoundError:
        store.prepare()  # somebody removed a directory under us
        return save(store, record)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        draft.unlink(missing_ok=True)
        msg = f"{target} cannot be written: {os.strerror(error.errno)}"
        return Refusal(Code.IO_FAILURE, msg, "free space or inodes; until then nothing is announced, withdrawn or set")
    return None


def _write(path: str, content: bytes) -> None:
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags | os.O_CLOEXEC, 0o600)) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# --- to and from bytes


def encode(record: MeshRecord) -> bytes:
    body: dict[str, Any] = {
        "format": FORMAT,
        "control_url": record.control_url,
        "announced": [str(each) for each in in_order(record.announced)],
        "prefs": {name: record.prefs[name] for name in sorted(record.prefs)},
    }
    return sealed(body)


def decode(raw: bytes) -> MeshRecord:
    body = unsealed(raw, FORMAT)
    try:
        return MeshRecord(
            control_url=str(body["control_url"]),
            announced=frozenset(ip_network(str(each)) for each in body["announced"]),
            prefs={name: Changed(**each) for name, each in body["prefs"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"field missing or malformed: {error!r}") from None
