"""`headcni uninstall`: the node as it was before HeadCNI, but for what others changed since.

It needs no daemon and no memory: routes, rules, links and the nftables table are told by their marks, sysctls by
`host.json`, what was announced and set in tailscaled by `mesh.json`, files on the host by `install.json`. The network
configuration goes first, so that no new pod comes; then announcements; of the node's plumbing the fence that keeps
pod packets inside the mesh goes last; and last of all the plugin's binaries. It holds the daemon's lock while it works,
so it never works against a daemon, and none starts meanwhile.

Without forwarding and masquerade a pod is cut off, so pods that still have a network are a refusal. `--purge` is the
word for "cut them off": it takes their links and, last of all, the state directory; last, because whatever stops it
half way then leaves what a second run needs. Of that directory only what HeadCNI writes is deleted, so that a wrong
`--state-dir` costs nobody their files. Where something could not be put back, that directory stays whatever was asked
for, and the exit code is 1: the next run tries again.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from cni.spec import Code, Refusal
from reconciler.install.place import draft_of
from reconciler.install.record import FILE as INSTALL_RECORD
from reconciler.install.removal import remove_binaries, remove_conflists
from reconciler.mesh.leave import leave
from reconciler.node.host import Host
from reconciler.node.sysctl import tree
from reconciler.node.wish import Problem
from reconciler.operate.configure import no_root
from reconciler.operate.statedir import StateDir, open_state
from reconciler.settings import BY_KEY
from reconciler.store import DIRECTORIES, LockHeld, Store
from reconciler.wiring.kernel import KernelWiring
from reconciler.wiring.plan import instance_group

NODE_ROOT = BY_KEY["node.root"]
KEPT_WITH_BINARIES = (INSTALL_RECORD, "daemon.lock")  # by the second the directory is known as a state directory
FILES = (
    *("status.json", "host.json", "podcidr.json", "mesh.json", "mesh-view.json", "mesh-repair", "doorbell"),
    draft_of(Path(INSTALL_RECORD)).name,
    *KEPT_WITH_BINARIES,
)  # the lock last: we hold it


def uninstall(args: Namespace, root: Path) -> int | Refusal:
    if refusal := no_root():
        return refusal
    state = open_state(root) if root.exists() else None
    if isinstance(state, Refusal):
        return state
    store = Store(root)
    held = store.lock() if state else None
    if isinstance(held, LockHeld):
        what = f"a daemon works on {root} ({held.holder})"
        return Refusal(Code.TRY_AGAIN_LATER, what, "stop it, and see that nothing starts it again")
    try:
        return _uninstall(store, state, args)
    finally:
        store.unlock()


def _uninstall(store: Store, state: StateDir | None, args: Namespace) -> int | Refusal:
    root, purge = store.root, args.purge
    wiring = KernelWiring(instance_group(str(root)))
    links = sorted(wiring.links())
    pods = [str(found.record.pod) or found.record.key for found in state.live()] if state else []
    if (links or pods) and not purge:
        what = f"{max(len(links), len(pods))} pods still have their network from HeadCNI"
        who = f": {', '.join(pods[:5])}" + (", …" if len(pods) > 5 else "") if pods else ""
        return Refusal(Code.TRY_AGAIN_LATER, what + who, "delete them first, or cut them off with --purge")
    gone = remove_conflists(store) if state else []
    if refusal := _tell(gone):
        return Refusal(refusal.code, f"the network configuration stays, so all is kept: {refusal.msg}", refusal.details)
    left = asyncio.run(leave(store, _socket(state, args))) if state else []
    if refusal := _tell(left):  # what is still announced must still be guarded
        cure = f"{refusal.details}; if tailscaled is gone for good, delete {root}/mesh.json; then run this again"
        return Refusal(refusal.code, f"the mesh is not left, so all is kept: {refusal.msg}", cure)
    wiring.unwire(links)
    host = Host(root, proc_sys=tree(Path(os.environ.get(NODE_ROOT.env) or NODE_ROOT.default)))
    restored = host.restore()
    problems = [each for each in restored if isinstance(each, Problem)]
    done: list[str | Refusal] = [f"deleted the interface {link}" for link in links]
    done += [each for each in restored if isinstance(each, str)]
    _tell(done)
    if problems:
        cure = "\n".join([*map(str, problems), "then run this again"])
        return Refusal(Code.KERNEL_REFUSED, f"not all could be put back, so {root} is kept", cure)
    binaries = remove_binaries(store) if state and not args.keep_binaries else []
    if refusal := _tell(binaries):
        return refusal
    if not (gone or left or done or binaries):
        print("nothing of HeadCNI's was on this node")
    if state is not None:
        print(_clear(root, args.keep_binaries) if purge else f"kept {root} with its history; --purge deletes it, too")
    return 0


def _tell(outcomes: Sequence[str | Refusal]) -> Refusal | None:
    """What was done; the first of what could not be."""
    for each in outcomes:
        if isinstance(each, str):
            print(each)
    return next((each for each in outcomes if isinstance(each, Refusal)), None)


def _socket(state: StateDir, args: Namespace) -> Path:
    """As given; or where the daemon had it; or the usual place."""
    said = state.status()
    told = said.mesh.get("socket") if said else None
    return Path(args.tailscale_socket or told or BY_KEY["tailscale.socket"].default)


def _clear(root: Path, keep_binaries: bool = False) -> str:
    for directory in DIRECTORIES:
        shutil.rmtree(root / directory, ignore_errors=True)
    binaries_stay = keep_binaries and (root / INSTALL_RECORD).exists()
    for file in FILES:
        if not (binaries_stay and file in KEPT_WITH_BINARIES):
            (root / file).unlink(missing_ok=True)
    if binaries_stay:
        return f"kept {root / INSTALL_RECORD}: by it a later run finds the binaries"
    try:
        root.rmdir()
    except OSError as error:
        foreign = ", ".join(sorted(os.listdir(root)))
        return f"left {root}: " + (f"it holds what is not HeadCNI's: {foreign}" if foreign else f"{error.strerror}")
    return f"deleted {root}"
