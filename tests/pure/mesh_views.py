"""The mesh as a node sees it: all well, and with one thing broken at a time; the golden file holds `WELL`."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

from cni.spec import Refusal
from reconciler.mesh.codes import REMEDIES, Trouble
from reconciler.mesh.model import Chain, Device, Finding, Holds, Link, LinkState, View, Way

SEEN = 1795267951.5  # two seconds before samples.BORN + 7200
OWN = ip_network("10.244.1.0/24")
OWN6 = ip_network("fd00:244:1::/64")
YES = LinkState(Holds.YES, "n2 is sent it", None, SEEN - 120)


def state(holds: Holds, trouble: Refusal | None = None, evidence: str = "") -> LinkState:
    return LinkState(holds, evidence, trouble, SEEN - 120)


def refusal(code: Trouble, what: str = "", cure: str = "") -> Refusal:
    known = REMEDIES[code]
    return Refusal(int(code), what or known[0], cure or known[1])


def chain(prefix=OWN, **links: LinkState) -> Chain:
    return Chain(prefix, {link: links.get(link.value, YES) for link in Link})


def way(prefix="10.244.2.0/24", name="n2", **changes) -> Way:
    fine = Way(
        prefix=ip_network(prefix),
        peer=f"nodekey:{name}",
        name=name,
        online=True,
        routed=True,
        delivered=LinkState(Holds.YES, f"{name} answered", None, SEEN - 60),
        rtt_ms=1.25,
        path="direct 192.0.2.12:41641",
    )
    return replace(fine, **changes)


WELL = View(
    written=SEEN,
    state="Running",
    version="1.102.3",
    control_url="https://headscale.example.com",
    name="n1",
    dns_name="n1.tail.example",
    key="nodekey:n1",
    addresses=(ip_address("100.64.0.1"), ip_address("fd7a:115c:a1e0::1")),
    device=Device("tailscale0", 7, 1280),
    chains=(chain(), chain(OWN6)),
    ways=(way(), way("fd00:244:2::/64"), way("10.244.3.0/24", "n3", path="relay lab", rtt_ms=None)),
    foreign=("0.0.0.0/0", "::/0", "192.168.7.0/24"),
    peers=3,
    peers_online=2,
    magic_suffix="tail.example",
    magic_enabled=True,
    log=("announced 10.244.1.0/24", "set RouteAll to true"),
)


def found(code: Trouble, what: str = "", cure: str = "", **changes) -> View:
    """All well, but for one finding."""
    return replace(WELL, findings=(Finding(code.name.lower(), refusal(code, what, cure), SEEN - 30),), **changes)


def linked(link: Link, broken: LinkState) -> View:
    """All well, but for one link of the IPv4 prefix."""
    return replace(WELL, chains=(chain(**{link.value: broken}), chain(OWN6)))


NOT_APPROVED = linked(
    Link.APPROVED,
    state(Holds.NO, refusal(Trouble.NOT_APPROVED, "10.244.1.0/24 is not approved", "approve it"), "Headscale's list"),
)
