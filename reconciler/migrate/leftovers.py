"""What Flannel leaves on a node, and the command that removes each. Pure.

flanneld takes nothing away when it stops: its chains go on rewriting and accepting packets, its routes lead past the
mesh, its configuration waits to be the first by name again. `cni0` has an address that is HeadCNI's gateway, too.

The order is that of removing: who makes the rest, then what carries packets, then files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.migrate.links import BRIDGES

if TYPE_CHECKING:
    from reconciler.migrate.flannel import Found
    from reconciler.node.dump import Route
    from reconciler.node.listings import Chain

_JUMPS = {"FLANNEL-POSTRTG": ("POSTROUTING", "flanneld masq"), "FLANNEL-FWD": ("FORWARD", "flanneld forward")}


@dataclass(frozen=True, slots=True)
class Leftover:
    what: str
    command: str


def leftovers(found: Found) -> tuple[Leftover, ...]:
    return (*_configurations(found), *_links(found), *_routes(found), *_chains(found.chains), *_files(found))


def _configurations(found: Found) -> Iterator[Leftover]:
    for conf in found.confs:
        what = f"{conf.path}: the network {conf.network!r} of {', '.join(conf.types)}"
        yield Leftover(what, f"mv {conf.path} {conf.path}.disabled")


def _links(found: Found) -> Iterator[Leftover]:
    for link in found.links:
        what = f"{link.name}, {'the bridge of pods' if link.name in BRIDGES else f'an interface ({link.kind})'}"
        held = f" with {', '.join(link.addresses)}" if link.addresses else ""
        pods = f", and {link.ports} pods plugged in: empty the node first" if link.ports else ""
        yield Leftover(what + held + pods, f"ip link del {link.name}")


def _routes(found: Found) -> Iterator[Leftover]:
    """Those by an interface of Flannel go with it."""
    gone = {link.name for link in found.links}
    for route, link in found.routes:
        if link not in gone:
            way = _way(route, link)
            yield Leftover(f"the route {way}", f"ip route del {way}")


def _way(route: Route, link: str) -> str:
    return f"{route.dst}" + (f" via {route.via}" if route.via else "") + f" dev {link}"


def _chains(chains: tuple[Chain, ...]) -> Iterator[Leftover]:
    for (family, table, legacy), names in _by_table(chains).items():
        if table.startswith("flannel-ipv"):
            yield Leftover(f"the table {family} {table} of nftables", f"nft delete table {family} {table}")
            continue
        tool = ("iptables" if family == "ip" else "ip6tables") + "-legacy" * legacy
        for name in names:
            yield Leftover(f"the chain {name} in {table} of {tool}", "; ".join(_iptables(f"{tool} -t {table}", name)))


def _by_table(chains: tuple[Chain, ...]) -> dict[tuple[str, str, bool], list[str]]:
    found: dict[tuple[str, str, bool], list[str]] = {}
    for each in chains:
        found.setdefault((each.family, each.table, each.legacy), []).append(each.name)
    return found


def _iptables(tool: str, name: str) -> Iterator[str]:
    if name in _JUMPS:
        base, comment = _JUMPS[name]
        yield f'{tool} -D {base} -m comment --comment "{comment}" -j {name}'
    yield f"{tool} -F {name}"
    yield f"{tool} -X {name}"


def _files(found: Found) -> Iterator[Leftover]:
    configurations = {conf.path for conf in found.confs}
    for path in found.paths:
        if path not in configurations:
            yield Leftover(path, f"rm -r {path}")
