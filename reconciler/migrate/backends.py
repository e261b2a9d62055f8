"""Flannel's backends, and what is different where the mesh carries packets instead. A table, and words for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from reconciler.migrate.formats import NetConf

THEN = (
    "WireGuard by tailscaled: encrypted, through any NAT; nodes need a way out (UDP, and HTTPS to Headscale), and no "
    "port that is open to the world"
)
_CLOUD = (
    "Flannel wrote a route for each node into the cloud's route table, and nobody else removes them: delete those that "
    "lead to pod CIDRs",
    "the check of source and destination may be switched on again: packets between nodes have the nodes' addresses",
)


@dataclass(frozen=True, slots=True)
class Backend:
    carries: str
    ports: str = ""  # that were open between the nodes, and need not be any more
    encrypted: bool = False
    notes: tuple[str, ...] = ()
    known: bool = True


_KNOWN = {
    "vxlan": Backend("a VXLAN tunnel", "UDP {port}"),
    "host-gw": Backend(
        "plain routes by way of the nodes' own LAN",
        notes=(
            "without a tunnel pods had the LAN's whole MTU; they get the mesh's, usually 1280",
            "its routes lead out by the LAN's interface: they do not go with an interface, and are removed one by one",
            "nodes need not share a LAN any more",
        ),
    ),
    "ipip": Backend(
        "an IP-in-IP tunnel",
        "IP protocol 4",
        notes=("tunl0 is the kernel's own, and stays until its module is unloaded",),
    ),
    "wireguard": Backend("WireGuard by Flannel, with keys in the nodes' annotations", "UDP {port}", encrypted=True),
    "udp": Backend(
        "a tunnel through a program of Flannel's, deprecated", "UDP {port}", notes=("flannel0 goes when flanneld ends",)
    ),
    "ipsec": Backend(
        "IPsec, with one key for all nodes",
        "UDP 500 and 4500, ESP",
        encrypted=True,
        notes=(
            "its policies stay in the kernel: `ip xfrm policy flush; ip xfrm state flush`, if nothing else uses IPsec",
        ),
    ),
    "aws-vpc": Backend("routes of the VPC", notes=_CLOUD),
    "ali-vpc": Backend("routes of the VPC", notes=_CLOUD),
    "gce": Backend("routes of the cloud's network", notes=_CLOUD),
    "tencent-vpc": Backend("routes of the VPC", notes=_CLOUD),
    "alloc": Backend(
        "nobody: Flannel only gave out subnets, and something else routes them",
        notes=("what routes pod CIDRs now is not Flannel's; see that it does not lead past the mesh",),
    ),
    "extension": Backend(
        "commands that Flannel's configuration names",
        notes=("what its ShutdownCommand does is done when Flannel stops: read it before",),
    ),
}
_PORTS = {"vxlan": 8472, "wireguard": 51820, "udp": 8285}
_TAILSCALE = Backend(
    "tailscaled, as k3s does it with --vpn-auth",
    encrypted=True,
    notes=(
        "k3s writes the list of announced routes when it starts, without HeadCNI's: switch --vpn-auth off first",
        "k3s runs `tailscale down` when it stops: `tailscale up` must follow, or HeadCNI with a key joins the node",
    ),
)


def of(conf: NetConf) -> Backend:
    if conf.tailscale:
        return _TAILSCALE
    unknown = Backend(f"{conf.backend}, a backend that HeadCNI does not know", known=False)
    return _KNOWN.get(conf.backend, unknown)


def differences(conf: NetConf, mtu: int) -> Iterator[str]:
    """In sentences: encryption, MTU, ports, and what is peculiar. `mtu`: of Flannel's pods; 0: not known."""
    backend = of(conf)
    if backend.encrypted:
        yield "packets between nodes were encrypted, and are"
    else:
        yield "packets between nodes were readable on the wire, and will be encrypted: that costs CPU time"
    if mtu:
        yield f"pods had an MTU of {mtu}; new ones get that of the mesh's interface, usually 1280"
    if backend.ports:
        ports = backend.ports.format(port=conf.port or _PORTS.get(conf.backend, ""))
        yield f"{ports} between nodes was Flannel's: close it when all nodes have moved"
    if conf.direct:
        yield "DirectRouting: between nodes of one LAN there are plain routes beside the tunnel, which are removed too"
    yield from backend.notes
