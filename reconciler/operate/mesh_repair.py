"""`headcni mesh repair`: asks the daemon to forget what it gave up and to look and mend at once.

The request is a file, as everything that reaches the daemon: it needs no socket and survives a restart. The daemon
removes it when it takes it up, and publishes what came of it with its next view. A second request beside a waiting one
is the same request.
"""

from __future__ import annotations

from argparse import Namespace
from time import monotonic_ns, sleep, time

from cni.spec import Code, Refusal
from reconciler.operate.mesh import no_mesh
from reconciler.operate.mesh_status import status
from reconciler.operate.statedir import StateDir
from reconciler.store import NoSpace, Store

FILE = "mesh-repair"
LOOKS = 150
PAUSE_SECONDS = 0.1


def repair(args: Namespace, state: StateDir, now: float) -> int | Refusal:
    if not state.daemon_lives():
        return Refusal(Code.TRY_AGAIN_LATER, "no daemon runs on this node, so nothing was done", "start the daemon")
    if refusal := no_mesh(state):
        return refusal
    request, before = state.root / FILE, _seen(state)
    try:
        no_space = Store(state.root).write(FILE, b"%d\n" % monotonic_ns())
    except PermissionError:
        return Refusal(Code.IO_FAILURE, f"{request} may be written by root only", "run the command as root")
    if isinstance(no_space, NoSpace):
        return Refusal(Code.IO_FAILURE, f"{request} could not be written: {no_space.reason}", "free space or inodes")
    for _ in range(LOOKS):
        sleep(PAUSE_SECONDS)
        if not request.exists() and _seen(state) != before:
            return status(args, state, time())
    what = f"the daemon has not shown in {LOOKS * PAUSE_SECONDS:.0f} s what came of the request"
    return Refusal(Code.TRY_AGAIN_LATER, what, "see `headcni mesh status`, and the daemon's log")


def _seen(state: StateDir) -> float:
    view = state.mesh_view()
    return view.written if view else 0.0
