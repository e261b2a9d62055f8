"""The mesh, as the daemon last saw it: what keeps this node's prefixes from being in force, and what else is wrong."""

from __future__ import annotations

from cni.spec import Code, Refusal
from reconciler.mesh.model import Holds, View
from reconciler.mesh.standing import OUTSIDE, cidrs, cure_of, lone_pods
from reconciler.operate.doctor.complaint import Complaint, Examined, Level, of
from reconciler.operate.doctor.patient import Patient
from reconciler.operate.mesh import Last, last_view


def examine(patient: Patient) -> Examined:
    if not patient.mesh:
        return Examined("", "mesh.mode is none")
    if isinstance(patient.state, Refusal):
        return Examined("", "the daemon's files could not be read")
    last = last_view(patient.state, patient.now)
    if isinstance(last, Refusal):
        return Examined("", "nobody has looked at it", (of(last, grave=True),))
    return Examined("", _saw(last), tuple(_complaints(last)))


def _saw(last: Last) -> str:
    view, force = last.view, "in force" if last.in_force else "NOT in force"
    return f"{force}, {view.peers_online} of {view.peers} peers online, {last.as_of}"


def _complaints(last: Last) -> list[Complaint]:
    """Each cause once, though it may break several links."""
    causes: dict[Refusal, bool] = {}
    for each in last.view.findings:
        causes[each.trouble] = each.trouble.code in OUTSIDE
    for trouble, breaks in _of_links(last.view):
        causes[trouble] = causes.get(trouble, False) or breaks
    seen = f"seen {last.as_of}"
    found = [of(Refusal(each.code, each.msg, cure_of(each)), grave, seen) for each, grave in causes.items()]
    if not found and not last.fresh:
        what = "what the mesh is like now is not known"
        found.append(Complaint(Level.WARNING, what, "start the daemon, or see its log", seen, Code.UNAVAILABLE))
    return found


def _of_links(view: View) -> list[tuple[Refusal, bool]]:
    chains = (*cidrs(view), *[each for each in lone_pods(view) if not each.in_force])
    own = [
        (link.trouble, chain.missing == link.trouble)
        for chain in chains
        for link in chain.links.values()
        if link.trouble is not None and link.holds is not Holds.YES
    ]
    ways = [
        (way.delivered.trouble, False)
        for way in view.ways
        if way.delivered.trouble is not None and way.delivered.holds is Holds.NO
    ]
    return own + ways
