"""`headcni install`: the plugin onto the host; a pod that starts in the middle runs the old one or the new one.

All is made ready first: each file is drafted beside its target and run once, there, where the runtime will run it.
Only when every one of them answers is the first target touched. So whatever refuses (no space, another processor, a
mount that executes nothing) leaves what was there, and whatever kills leaves drafts that the next run removes, or the
uninstallation: the record names their targets before there is any.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from cni import plugin
from cni.spec import Code, Refusal
from reconciler.install import place, record
from reconciler.install.codes import Trouble
from reconciler.install.formats import FORMATS, unreadable
from reconciler.install.record import InstallRecord
from reconciler.install.trial import try_out
from reconciler.store import Store

KEY = "cni.binDir"
OURS = ("headcni", "headcni-ipam")
LOOPBACK = "loopback"  # containerd cannot do without; others' is as good as ours


@dataclass(frozen=True, slots=True)
class Binary:
    target: Path
    source: Path
    content: bytes
    digest: str


class Deed(Enum):
    NOTHING = "is up to date"
    LEAVE = "is there already, and stays"
    WRITE = "installed"
    REPLACE = "replaced"
    SET_ASIDE = "installed, and the one that was there kept as"


def judge(binary: Binary, now: str, ours: InstallRecord, aside: bool) -> Deed | Refusal:
    """Pure. `now`: the digest of what is there. `aside`: whether there is a file of that name set aside already."""
    path = str(binary.target)
    if now == binary.digest:
        return Deed.NOTHING if now in ours.digests(path) else Deed.LEAVE  # then another HeadCNI may need it
    if not now:
        return Deed.WRITE
    if now in ours.digests(path):
        return Deed.REPLACE
    if binary.target.name == LOOPBACK:
        return Deed.LEAVE
    if aside and path not in ours.set_aside:
        what = f"{path} is not HeadCNI's, and cannot be set aside: {place.aside_of(binary.target)} is there already"
        return Refusal(Trouble.SET_ASIDE, what, "remove the one of the two that is not wanted, then run this again")
    return Deed.SET_ASIDE


def install(store: Store, directory: Path, source: Path, loopback: Path | None) -> list[str | Refusal] | Refusal:
    """What was done, and what is to be warned of."""
    wanted = _wanted(directory, source, loopback)
    if isinstance(wanted, Refusal):
        return wanted
    try:
        with place.locked(directory, wait=False):
            return _install(store, directory, wanted)
    except BlockingIOError:
        what = f"another installation works in {directory}"
        return Refusal(Code.TRY_AGAIN_LATER, what, "wait until it has ended, then run this again")
    except OSError as error:
        return place.unusable(Trouble.BIN_DIR, KEY, directory, error)


def _wanted(directory: Path, source: Path, loopback: Path | None) -> list[Binary] | Refusal:
    sources = [(name, source) for name in OURS] + ([(LOOPBACK, loopback)] if loopback else [])
    try:
        contents = {each: each.read_bytes() for _, each in sources}
    except OSError as error:
        what = f"{error.filename} cannot be read: {error.strerror}"
        return Refusal(
            Trouble.PLUGIN_FILE, what, "name the plugin's file with --plugin, that of loopback with --loopback"
        )
    return [Binary(directory / name, each, contents[each], place.digest(contents[each])) for name, each in sources]


def _install(store: Store, directory: Path, wanted: Sequence[Binary]) -> list[str | Refusal] | Refusal:
    said: list[str | Refusal] = [
        f"{path}: removed, an installation that was killed left it"
        for path in place.sweep(directory / name for name in (*OURS, LOOPBACK))
    ]
    told = record.load(store)
    if told.record is None and told.trouble and not told.newer:
        return told.trouble
    said += [told.trouble] if told.trouble else []
    ours = told.record or InstallRecord()
    said += unreadable(ours)
    deeds: list[tuple[Binary, Deed]] = []
    for binary in wanted:
        aside = os.path.lexists(place.aside_of(binary.target))
        deed = judge(binary, place.digest_at(binary.target), ours, aside)
        if deed is Deed.SET_ASIDE and told.newer:
            deed = Deed.REPLACE  # what is there is the newer version's own
        if isinstance(deed, Refusal):
            return deed
        deeds.append((binary, deed))
    drafted = [str(binary.target) for binary, deed in deeds if _writes(deed)]
    if not told.newer and (refusal := record.update(store, lambda now: now.with_drafts(drafted))):
        return refusal
    if refusal := _make_ready(directory, [binary for binary, deed in deeds if _writes(deed)]):
        return refusal
    try:
        if not told.newer and (refusal := record.update(store, lambda now: _recorded(now, deeds))):
            return refusal
        _put_in_place(directory, deeds)
    finally:
        place.sweep(binary.target for binary, _ in deeds)
    return [*said, *_words(deeds)]


def _writes(deed: Deed) -> bool:
    return deed in (Deed.WRITE, Deed.REPLACE, Deed.SET_ASIDE)


def _make_ready(directory: Path, binaries: Sequence[Binary]) -> Refusal | None:
    refusal = None
    try:
        for binary in binaries:
            refusal = refusal or try_out(place.draft(binary.target, binary.content, 0o755), binary.source)
    except OSError as error:
        refusal = place.unusable(Trouble.BIN_DIR, KEY, directory, error)
    if refusal:
        place.sweep(binary.target for binary in binaries)
    return refusal


def _recorded(now: InstallRecord, deeds: Sequence[tuple[Binary, Deed]]) -> InstallRecord:
    now = replace(now, version=plugin.VERSION.decode(), formats=FORMATS)
    for binary, deed in deeds:
        if deed is not Deed.LEAVE:
            now = now.with_binary(str(binary.target), binary.digest)
        if deed is Deed.SET_ASIDE:
            now = now.with_aside([str(binary.target)])
    return now


def _put_in_place(directory: Path, deeds: Sequence[tuple[Binary, Deed]]) -> None:
    for binary, deed in deeds:
        if deed is Deed.SET_ASIDE:  # by a second name, so that the first is never without a file
            aside = place.aside_of(binary.target)
            aside.unlink(missing_ok=True)
            os.link(binary.target, aside, follow_symlinks=False)
        if _writes(deed):
            place.commit(binary.target)
    place.sync(directory)


def _words(deeds: Sequence[tuple[Binary, Deed]]) -> Iterator[str]:
    for binary, deed in deeds:
        more = f" {place.aside_of(binary.target)}" if deed is Deed.SET_ASIDE else ""
        yield f"{binary.target}: {deed.value}{more}"
