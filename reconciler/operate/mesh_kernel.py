"""Where the kernel leads a packet at this instant: the one thing that `mesh why` asks live, for it may differ from what
the daemon saw, and needs neither daemon nor root."""

from __future__ import annotations

from reconciler.mesh.why import KernelWay
from reconciler.settings import IpAddress


def kernel_way(address: IpAddress) -> KernelWay | None:
    """None where this process may not ask."""
    from reconciler.node.meshlink import MeshLink

    try:
        way = MeshLink().way_to(address)
    except PermissionError:
        return None
    return KernelWay("" if way.refused else way.device, str(way))
