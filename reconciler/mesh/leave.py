"""Leaving the mesh, on uninstall: announcements withdrawn, preferences put back, the record forgotten.

By the same steps as announcing, towards nothing wanted, so that a kill or a second run changes nothing; and the record
goes last. What cannot be done now stays in the record for the next run; a record that names too much, because the disk
is full, does no harm. The node stays joined: whoever uninstalls may be connected through it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from cni.spec import Refusal
from reconciler.mesh import announce, preferences, record
from reconciler.mesh.codes import Trouble
from reconciler.mesh.model import Prefs
from reconciler.mesh.ports import Tailscaled
from reconciler.settings import as_text
from reconciler.store import Store

STEPS = 12
AGAIN_SECONDS = 30.0

log = logging.getLogger("headcni")


async def leave_for_good(store: Store, socket: Path, warn: Callable[[str, str], None]) -> None:
    """Until it is cancelled: what was announced and set is taken back, when tailscaled lets us."""
    while True:
        for each in await leave(store, socket):
            if isinstance(each, str):
                log.info("mesh: %s", each)
            else:
                warn(f"left mesh {each.code}", f"mesh.mode is none, but the mesh is not left: {each}")
        await asyncio.sleep(AGAIN_SECONDS)


async def leave(store: Store, socket: Path) -> list[str | Refusal]:
    """What was done, and what could not be."""
    told = record.load(store)
    if told.record is None or told.record == record.MeshRecord():
        return [told.trouble] if told.trouble else []
    from reconciler.mesh.localapi import LocalApi  # only where there is something to undo

    tailscaled = LocalApi(socket)
    try:
        return [each async for each in undo(tailscaled, store, told.record)]
    finally:
        await tailscaled.close()


async def undo(tailscaled: Tailscaled, store: Store, ours: record.MeshRecord) -> AsyncIterator[str | Refusal]:
    for _ in range(STEPS):
        prefs = await tailscaled.prefs()
        if isinstance(prefs, Refusal):
            yield prefs
            return
        match announce.next_step(prefs, ours, ()):
            case Refusal() as refusal:
                yield _of_another_profile(refusal, store, prefs)
                return
            case announce.Write(kept):
                refused = record.save(store, kept)
                ours = kept
            case announce.Forget(kept):
                record.save(store, kept)
                refused, ours = None, kept
            case announce.Edit(change):
                edited = await tailscaled.edit({"AdvertiseRoutes": list(change.routes)})
                refused = edited if isinstance(edited, Refusal) else None
                if refused is None:
                    yield f"withdrew {', '.join(map(str, change.withdraw))} from the mesh"
            case None:
                async for each in _put_back(tailscaled, store, ours):
                    yield each
                return
        if refused is not None:
            yield refused
            return
    what = "AdvertiseRoutes does not stay as written"
    yield Refusal(Trouble.NOT_ANNOUNCED, what, "find out who else writes it, stop that, and run this again")


def _of_another_profile(refusal: Refusal, store: Store, prefs: Prefs) -> str | Refusal:
    """Logged out, or killed before it was ever joined: then there is no profile any more that ours could be in."""
    if prefs.logged_out or not prefs.control_url:
        store.remove(record.FILE)
        return "tailscaled is logged out: nothing of HeadCNI's is in it any more"
    cure = f"`tailscale switch` back to it; or give it up: delete {store.root / record.FILE}, then run this again"
    return Refusal(refusal.code, refusal.msg, cure)


async def _put_back(tailscaled: Tailscaled, store: Store, ours: record.MeshRecord) -> AsyncIterator[str | Refusal]:
    prefs = await tailscaled.prefs()
    if isinstance(prefs, Refusal):
        yield prefs
        return
    before = preferences.restorable(ours, prefs)
    edited = await tailscaled.edit(before)
    if isinstance(edited, Refusal):
        yield edited
        return
    for name, value in before.items():
        yield f"tailscaled's {name} is {as_text(value)} again"
    store.remove(record.FILE)
