"""What the daemon's own status means for its Node: `Status` in, `Truth` out, purely.

Readiness is the status': what `headcni status` and /readyz say. The mesh is summed up in one line that changes only
when something does, for it becomes an annotation, and each change of it wakes whoever watches Nodes. Until the mesh
was looked at, nothing is said of it, and who this node is in the tailnet stays as it was told before.

A new node waits for its mesh while that may come by itself: a join, an approval, the end of an outage. What keeps it
out of the tailnet until a person mends it is not waited for, or not even pods of this node would run meanwhile. That it
is so, and not a moment of joining, only time can tell: whoever calls says whether it has lasted.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from reconciler.kube.node import Truth
from reconciler.mesh.codes import Trouble
from reconciler.operate.status import Status
from reconciler.settings import IpAddress

LONGEST_LINE = 200
MENDED_BY_HAND = (
    Trouble.TAILSCALED_UNSUITABLE,
    Trouble.TAILSCALED_LOCKED,
    Trouble.NOT_JOINED,
    Trouble.JOINED_ELSEWHERE,
    Trouble.JOIN_REFUSED,
    Trouble.SECRET,
)


def truth_of(status: Status, lasts: bool = False) -> Truth:
    """`lasts`: it has been `kept_out` for long."""
    mesh = status.mesh
    line = mesh_line(mesh)
    return Truth(
        not_ready="; ".join(each.what for each in status.not_ready),
        not_yet=_not_yet(mesh, line),
        for_a_person=lasts and kept_out(mesh),
        pod_cidrs=tuple([ip_network(each) for each in status.pod_cidrs]),
        mesh=line,
        version=status.version,
        node_key=_node_key(mesh),
        tailnet_addresses=_addresses(mesh),
    )


def mesh_line(mesh: Mapping[str, Any]) -> str | None:
    mode = str(mesh.get("mode", "none"))
    if mode != "tailscale":
        return mode
    if "in_force" not in mesh:
        return None
    wrong = [f"{name}: {trouble['what']}" for name, trouble in mesh["missing"].items()]
    if not mesh["member"]:
        wrong = [trouble["what"] for trouble in mesh["findings"][:1]] or [f"tailscaled is {mesh['state']}"]
    return f"not in force: {'; '.join(wrong)}"[:LONGEST_LINE] if wrong else "in force"


def kept_out(mesh: Mapping[str, Any]) -> bool:
    """This node is no member of the tailnet, and will not be one before a person mends something."""
    outside = not mesh.get("member", True)
    return outside and any(trouble["code"] in MENDED_BY_HAND for trouble in mesh["findings"][:1])


def _not_yet(mesh: Mapping[str, Any], line: str | None) -> str:
    if mesh.get("mode") != "tailscale" or line == "in force":
        return ""
    return f"the mesh is {line}" if line else "the mesh was not looked at yet"


def _node_key(mesh: Mapping[str, Any]) -> str | None:
    if mesh.get("mode") != "tailscale":
        return ""
    key = mesh.get("node_key")
    return str(key) if key else None


def _addresses(mesh: Mapping[str, Any]) -> tuple[IpAddress, ...] | None:
    if mesh.get("mode") != "tailscale":
        return ()
    known = mesh.get("addresses")
    return tuple([ip_address(each) for each in known]) if known else None
