"""Taking back what HeadCNI put on the host, on uninstall: configurations first, binaries last.

Files of ours go, and those that were set aside for them come back under their names. A file that has another digest
than we wrote belongs to somebody else by now, and stays. The record forgets a file after it was dealt with, so a run
that was killed is finished by the next.

A refusal says that something is still there, and stops the uninstallation. That the record could not forget does not:
what it names too much is looked for again and not found. Otherwise nobody could leave a disk that is full.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cni.spec import Refusal
from reconciler.install import place, record
from reconciler.install.codes import Trouble
from reconciler.install.record import InstallRecord
from reconciler.store import Store


def remove_conflists(store: Store) -> list[str | Refusal]:
    """What was done, and what could not be."""
    return list(_remove(store, lambda ours: [*ours.conflists, *_rivals(ours)]))


def remove_binaries(store: Store) -> list[str | Refusal]:
    return list(_remove(store, lambda ours: [*ours.binaries]))


def _rivals(ours: InstallRecord) -> list[str]:
    return sorted(ours.set_aside - ours.binaries.keys() - ours.conflists.keys())


def _remove(store: Store, which: Callable[[InstallRecord], list[str]]) -> Iterator[str | Refusal]:
    told = record.load(store)
    if told.trouble:
        yield told.trouble
    paths = which(told.record) if told.record else []
    if not (told.record and paths):
        return
    try:
        for path in paths:
            yield from _take_back(Path(path), told.record)
        place.sweep(map(Path, paths))
    except OSError as error:
        at = Path(error.filename or path)  # what fails while it is read has no name
        cure = place.foreign_owner(error, at.parent, at) or "see that root can write there"
        yield Refusal(Trouble.SET_ASIDE, f"{at}: {error.strerror}", f"{cure}; then run this again")
        return
    if why := _forget(store, paths):
        yield f"warning: {store.root / record.FILE} still names what was taken back, which does no harm: {why}"


def _forget(store: Store, paths: Sequence[str]) -> str:
    """Why it could not be; empty where it was."""
    directories = {Path(path).parent for path in paths}
    try:
        for directory in filter(Path.is_dir, directories):
            place.sync(directory)  # what may come back after a power loss must stay in the record
    except OSError as error:
        return f"{error.strerror}"
    refusal = record.update(store, lambda now: now.without(paths))
    return refusal.msg if refusal else ""


def _take_back(path: Path, ours: InstallRecord) -> Iterator[str]:
    if not path.parent.is_dir():
        yield f"left {path}: its directory is not here"
        return
    now, digests = place.digest_at(path), ours.digests(str(path))
    aside = place.aside_of(path)
    if now and now in digests:
        path.unlink()
        yield f"deleted {path}"
        now = ""
    kept = str(path) in ours.set_aside and os.path.lexists(aside)
    if kept and not now:
        os.rename(aside, path)
        yield f"put {path} back, as it was before"
    elif kept and now == place.digest_at(aside):
        aside.unlink()  # a kill came between its second name and our file
    elif kept:
        yield f"left {path}: it is not HeadCNI's; the one before it is {aside}"
    elif now and digests:
        yield f"left {path}: it is not as HeadCNI wrote it"
