"""Firewalls of others that drop pods' packets: one whose FORWARD policy is drop, or whose last rule rejects.

Between pods of this node, and from and to everything else, packets are forwarded, so each such chain must accept them.
We cannot do that for it: an accept in a chain of ours ends that chain only, while a drop anywhere is final, and rules
of others are not ours to write. So it is told, with the commands that its owner understands.

A chain is told only if no rule in it is seen that accepts all packets of pods (`firewalld`'s trusted zone, `ufw route
allow`, what Flannel left). Rules that tailscaled put there accept what goes into the mesh and comes out of it, which
leaves pods of this node without each other and without the world.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from cni.spec import Refusal
from reconciler.ipam.pool import Network
from reconciler.kube.codes import Trouble
from reconciler.mesh.networks import covers
from reconciler.node.listings import FAMILIES, Chain, Rule, Rules
from reconciler.node.wish import LINK_PREFIX

_OURS, _HARMLESS = "headcni", "kube-proxy"  # tables: what these drop is meant to be dropped
_POD_LINKS = f"{LINK_PREFIX}*"
Read = Callable[..., Rules | str]


@dataclass(frozen=True, slots=True)
class Wall:
    """A chain that drops what no rule of it accepts, with all chains of its table."""

    chain: Chain
    rules: Rules


@dataclass(frozen=True, slots=True)
class Packet:
    """Of a kind: whatever is None or empty may be anything."""

    source: Network | None = None
    destination: Network | None = None
    iif: str = ""
    oif: str = ""


def walls(chains: Iterable[Chain], read: Read) -> Iterator[Wall | str]:
    """Most chains that forward have the policy accept: of those only the chain itself is read first."""
    for chain in chains:
        if chain.hook != "forward" or chain.family not in FAMILIES or chain.table in (_OURS, _HARMLESS):
            continue
        if chain.policy != "drop":
            own = read(chain, alone=True)
            if isinstance(own, str):
                yield own
            if isinstance(own, str) or not _ends_in_refusal(own.get(chain.name, ())):
                continue
        rules = read(chain)
        yield rules if isinstance(rules, str) else Wall(chain, rules)


def _ends_in_refusal(rules: Sequence[Rule]) -> bool:
    return bool(rules) and rules[-1].unconditional and rules[-1].verdict in ("drop", "reject")


def blocked(
    found: Iterable[Wall], pods: Sequence[Network], cluster: Sequence[Network], device: str
) -> Iterator[Refusal]:
    """Pure. `device`: the mesh's interface, if there is one."""
    for wall in found:
        for own in pods:
            if wall.chain.family != "inet" and (wall.chain.family == "ip") != (own.version == 4):
                continue
            whole = next((each for each in cluster if covers(each, own)), own)
            leaving = Packet(source=own, iif=_POD_LINKS)
            arriving = Packet(source=whole, destination=own, oif=_POD_LINKS)
            if not (_passes(wall, leaving) and _passes(wall, arriving)):
                into_mesh = bool(device) and _passes(wall, replace(leaving, oif=device))
                yield _told(wall, own, device if into_mesh else "", _cure(wall, whole, device))


def _passes(wall: Wall, packet: Packet) -> bool:
    return verdict(wall.rules, wall.chain.name, packet) == "accept"


def verdict(rules: Rules, chain: str, packet: Packet) -> str:
    """Of the first rule that matches every such packet: accept, drop, reject; empty where none does."""
    for rule in rules.get(chain, ()):
        if rule.narrow or not _matches(rule, packet):
            continue
        if rule.verdict == "return":
            return ""
        if rule.verdict in ("jump", "goto"):
            reached = verdict(rules, rule.target, packet)
            if reached or rule.verdict == "goto":
                return reached
        elif rule.verdict:
            return rule.verdict
    return ""


def _matches(rule: Rule, packet: Packet) -> bool:
    return (
        _inside(packet.source, rule.sources)
        and _inside(packet.destination, rule.destinations)
        and _named(packet.iif, rule.iif)
        and _named(packet.oif, rule.oif)
    )


def _inside(network: Network | None, allowed: Sequence[Network]) -> bool:
    return not allowed or (network is not None and any(covers(each, network) for each in allowed))


def _named(link: str, allowed: Sequence[str]) -> bool:
    """A name that ends in a star stands for all that begin so, in a packet as well."""
    return not allowed or any(link == each or (each.endswith("*") and link.startswith(each[:-1])) for each in allowed)


def _told(wall: Wall, own: Network, passing: str, cure: tuple[str, str]) -> Refusal:
    owner, commands = cure
    whose = f" ({owner})" if owner else ""
    but = f"; only what goes through {passing} passes" if passing else ""
    what = f"{wall.chain}{whose} drops forwarded packets, and no rule in it accepts those of the pods {own}{but}"
    return Refusal(Trouble.FIREWALL, what, commands)


def _cure(wall: Wall, whole: Network, device: str) -> tuple[str, str]:
    """Who keeps this chain, and the commands that let pods pass, in their words."""
    chain, names = wall.chain, wall.rules.keys()
    if chain.table == "firewalld":
        link = f" --add-interface={device}" if device else ""
        add = f"firewall-cmd --permanent --zone=trusted --add-source={whole}{link}"
        return "firewalld", f"{add}; firewall-cmd --reload"
    if any(name.startswith("ufw") for name in names):
        return "ufw", f"ufw route allow from {whole}; ufw route allow to {whole}"
    if chain.table == "filter" and chain.family != "inet":
        command = "iptables" if chain.family == "ip" else "ip6tables"
        docker = "DOCKER-USER" in names or "DOCKER" in names
        where = f"{command} -I {'DOCKER-USER' if 'DOCKER-USER' in names else chain.name}"
        lasting = "and have it done at each boot"
        return "Docker" if docker else "", f"{where} -s {whole} -j ACCEPT; {where} -d {whole} -j ACCEPT; {lasting}"
    ip = "ip" if whole.version == 4 else "ip6"
    insert = f"nft insert rule {chain.family} {chain.table} {chain.name} {ip}"
    return "", f"{insert} saddr {whole} accept; {insert} daddr {whole} accept; and write it into that table's file"
