"""The mesh as the daemon last saw it, and how old that is: what all of `headcni mesh` begins with.

A view is as good as its age. While a daemon lives it renews the file at least twice a minute; one that is older, or
whose writer is gone, is the last known state and is called so wherever it is shown, and no exit code then says that
all is well: what nobody looks at now is not known to hold.
"""

from __future__ import annotations

from dataclasses import dataclass

from cni.spec import Code, Refusal
from reconciler.mesh.codes import Trouble
from reconciler.mesh.model import View
from reconciler.mesh.standing import cure_of, in_force
from reconciler.mesh.viewfile import FILE
from reconciler.operate.output import age
from reconciler.operate.statedir import StateDir

FRESH_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Last:
    view: View
    now: float
    daemon_lives: bool

    @property
    def fresh(self) -> bool:
        return self.daemon_lives and self.now - self.view.written <= FRESH_SECONDS

    @property
    def as_of(self) -> str:
        old = age(self.view.written, self.now)
        if self.fresh:
            return f"{old} ago"
        why = "the daemon has not looked since" if self.daemon_lives else "no daemon runs on this node"
        return f"LAST KNOWN STATE, {old} old: {why}"

    @property
    def in_force(self) -> bool:
        return in_force(self.view)


def no_mesh(state: StateDir) -> Refusal | None:
    said = state.status()
    if said is None or said.mesh.get("mode", "none") != "none":
        return None
    cure = "start the daemon with --mesh tailscale, if nodes shall reach each other's pods through Tailscale"
    return Refusal(Code.UNAVAILABLE, "there is no mesh on this node: mesh.mode is none", cure)


def last_view(state: StateDir, now: float) -> Last | Refusal:
    if refusal := no_mesh(state):
        return refusal
    lives, view = state.daemon_lives(), state.mesh_view()
    if view is not None:
        return Last(view, now, lives)
    damage = next((each for each in state.unreadable if each.file == FILE), None)
    if damage is not None:
        cure = "the daemon writes it anew at its next look, within a minute" if lives else "start the daemon"
        if damage.newer:
            cure = "use the `headcni` that came with the daemon"
        return Refusal(Code.IO_FAILURE, f"{state.root}/{FILE} cannot be read: {damage.why}", cure)
    cure = "wait a moment; its log says what hinders it" if lives else "start the daemon with --mesh tailscale"
    return Refusal(Code.UNAVAILABLE, f"nobody has looked at the mesh yet: no {FILE} in {state.root}", cure)


def told(trouble: Refusal) -> str:
    """What is wrong, and below it the cure."""
    number = f" (code {int(trouble.code)})" if trouble.code in Trouble.__members__.values() else ""
    cure = cure_of(trouble)
    return trouble.msg + number + (("\n" + cure).replace("\n", "\n  ") if cure else "")
