"""`install.json`: what HeadCNI wrote outside of its state directory, and what it set aside there.

It is the only thing that tells our files from others', by their digests, so it is on the disk *before* a file is
renamed into place, and forgets one *after* that is gone. It may therefore name what never came to be, and never lacks
what is there. Of each file the last few digests are kept, newest first: whichever it has, it is ours. With none it may
have a draft beside it, and nothing more.

`headcni install` and the daemon both write it, perhaps at once: each change is made to what is there then, under a
lock. Of a newer version it is left alone; damaged, it goes into quarantine, and what it named counts as foreign.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cni.spec import Refusal
from reconciler.install import place
from reconciler.install.codes import Trouble
from reconciler.store import Store, read_bytes
from statemachine.envelope import Damaged, UnknownVersion, sealed, unsealed

FORMAT = "headcni/install/1"
FILE = "install.json"
KEPT = 8  # digests of each file

Files = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class InstallRecord:
    version: str = ""  # that wrote the binaries
    formats: Mapping[str, int] = field(default_factory=dict)  # that it writes, by name
    binaries: Files = field(default_factory=dict)
    conflists: Files = field(default_factory=dict)
    set_aside: frozenset[str] = frozenset()  # by the name that it had

    def digests(self, path: str) -> tuple[str, ...]:
        return self.binaries.get(path, ()) + self.conflists.get(path, ())

    def with_drafts(self, paths: Iterable[str]) -> InstallRecord:
        """Binaries that are to be; none of them is ours yet."""
        return replace(self, binaries={**dict.fromkeys(paths, ()), **self.binaries})

    def with_binary(self, path: str, digest: str) -> InstallRecord:
        return replace(self, binaries=_added(self.binaries, path, digest))

    def with_conflist(self, path: str, digest: str) -> InstallRecord:
        return replace(self, conflists=_added(self.conflists, path, digest))

    def with_aside(self, paths: Iterable[str]) -> InstallRecord:
        return replace(self, set_aside=self.set_aside.union(paths))

    def without(self, paths: Iterable[str]) -> InstallRecord:
        gone = frozenset(paths)
        return replace(
            self,
            binaries={path: each for path, each in self.binaries.items() if path not in gone},
            conflists={path: each for path, each in self.conflists.items() if path not in gone},
            set_aside=self.set_aside - gone,
        )

    def without_conflist(self, path: str) -> InstallRecord:
        return replace(self, conflists={each: digests for each, digests in self.conflists.items() if each != path})

    @property
    def empty(self) -> bool:
        return not (self.binaries or self.conflists or self.set_aside)


@dataclass(frozen=True, slots=True)
class Loaded:
    record: InstallRecord | None  # None: hands off
    trouble: Refusal | None = None
    newer: bool = False


def _added(files: Files, path: str, digest: str) -> Files:
    return {**files, path: tuple(dict.fromkeys((digest, *files.get(path, ()))))[:KEPT]}


# --- on the disk


def load(store: Store) -> Loaded:
    path = f"{store.root}/{FILE}"
    try:
        return Loaded(decode(read_bytes(path)))
    except FileNotFoundError:
        return Loaded(InstallRecord())
    except UnknownVersion as error:
        cure = "use the version that wrote it to uninstall, or to change what it set aside"
        return Loaded(None, Refusal(Trouble.INSTALL_RECORD, f"{path} is newer: {error}", cure), newer=True)
    except OSError as error:
        what = f"{path} cannot be read: {os.strerror(error.errno or 0)}"
        return Loaded(None, Refusal(Trouble.INSTALL_RECORD, what, "see that root can read it"))
    except Damaged as error:
        reason = str(error)
    store.quarantine(path, reason)
    cure = f"what it named counts as foreign: look at it in quarantine/, and at files that end in {place.ASIDE}"
    return Loaded(InstallRecord(), Refusal(Trouble.INSTALL_RECORD, f"{path} was damaged ({reason})", cure))


def update(store: Store, change: Callable[[InstallRecord], InstallRecord]) -> Refusal | None:
    """Once this has returned None, the change survives a power loss."""
    target = store.root / FILE
    try:
        store.prepare()
        with place.locked(store.root):
            told = load(store)
            if told.record is None:
                return told.trouble
            fresh = change(told.record)
            if fresh == told.record:
                return None
            if fresh.empty:
                store.remove(FILE)
            else:
                place.draft(target, encode(fresh), 0o600)
                place.commit(target)
            place.sync(store.root)
    except OSError as error:
        return place.unusable(Trouble.INSTALL_RECORD, "stateDir", Path(store.root), error)
    return None


# --- to and from bytes


def encode(record: InstallRecord) -> bytes:
    return sealed(
        {
            "format": FORMAT,
            "version": record.version,
            "formats": dict(record.formats),
            "binaries": {path: list(each) for path, each in sorted(record.binaries.items())},
            "conflists": {path: list(each) for path, each in sorted(record.conflists.items())},
            "set_aside": sorted(record.set_aside),
        }
    )


def decode(raw: bytes) -> InstallRecord:
    body = unsealed(raw, FORMAT)
    try:
        return InstallRecord(
            version=str(body["version"]),
            formats={str(name): int(number) for name, number in body["formats"].items()},
            binaries=_files(body["binaries"]),
            conflists=_files(body["conflists"]),
            set_aside=frozenset(str(path) for path in body["set_aside"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"field missing or malformed: {error!r}") from None


def _files(body: Mapping[str, Iterable[str]]) -> Files:
    return {str(path): tuple([str(each) for each in digests]) for path, digests in body.items()}
