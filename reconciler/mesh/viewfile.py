"""`mesh-view.json`: what the daemon last saw of the mesh, for those who only read files.

Everything an operator can ask of the mesh is answered from this file, so it is there with the daemon down as well, and
says when it was written. It is derived: the daemon writes it whole, by rename, after each look, and needs it for
nothing, so it carries no checksum, and one that cannot be read is simply replaced by the next. It grows with the ways
to other nodes, a thousand of them in a large cluster, so it is made key by key, which takes 3 ms; `asdict` takes
ten times that.

`summary` is the same in small, for `status.json`: what a probe or a metric wants to know, without the ways.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

import orjson

from cni.spec import Refusal
from reconciler.mesh.model import Chain, Device, Finding, Holds, Link, LinkState, View, Way
from reconciler.mesh.standing import cidrs, lone_pods, outside
from statemachine.envelope import Damaged, parsed

FORMAT = "headcni/mesh-view/1"
FILE = "mesh-view.json"


def encode_view(view: View) -> bytes:
    body = {
        "format": FORMAT,
        "written": view.written,
        "state": view.state,
        "version": view.version,
        "control_url": view.control_url,
        "name": view.name,
        "dns_name": view.dns_name,
        "key": view.key,
        "addresses": [str(each) for each in view.addresses],
        "device": view.device,
        "chains": [_chain(each) for each in view.chains],
        "ways": [_way(each) for each in view.ways],
        "findings": view.findings,
        "foreign": view.foreign,
        "peers": view.peers,
        "peers_online": view.peers_online,
        "magic_suffix": view.magic_suffix,
        "magic_enabled": view.magic_enabled,
        "accepts_dns": view.accepts_dns,
        "owner": view.owner,
        "log": view.log,
    }
    return orjson.dumps(body, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _chain(chain: Chain) -> dict[str, Any]:
    return {"prefix": str(chain.prefix), "links": {link.value: chain.links[link] for link in Link}}


def _way(way: Way) -> dict[str, Any]:
    return {
        "prefix": str(way.prefix),
        "peer": way.peer,
        "name": way.name,
        "online": way.online,
        "routed": way.routed,
        "delivered": way.delivered,
        "rtt_ms": way.rtt_ms,
        "path": way.path,
    }


def decode_view(raw: bytes) -> View:
    """Keys it does not know are passed over, and those that may be missing get their defaults."""
    body = parsed(raw, FORMAT)
    try:
        return _view(body)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"field missing or malformed: {error!r}") from None


def _view(body: Mapping[str, Any]) -> View:
    device = body.get("device")
    return View(
        written=float(body["written"]),
        state=str(body["state"]),
        version=body.get("version", ""),
        control_url=body.get("control_url", ""),
        name=body.get("name", ""),
        dns_name=body.get("dns_name", ""),
        key=body.get("key", ""),
        addresses=tuple([ip_address(each) for each in body.get("addresses", ())]),
        device=Device(device["name"], device["index"], device["mtu"]) if device else None,
        chains=tuple([_chain_from(each) for each in body["chains"]]),
        ways=tuple([_way_from(each) for each in body["ways"]]),
        findings=tuple([_finding_from(each) for each in body.get("findings", ())]),
        foreign=tuple(body.get("foreign", ())),
        peers=int(body.get("peers", 0)),
        peers_online=int(body.get("peers_online", 0)),
        magic_suffix=body.get("magic_suffix", ""),
        magic_enabled=body.get("magic_enabled", False),
        accepts_dns=body.get("accepts_dns", False),
        owner=body.get("owner", ""),
        log=tuple(body.get("log", ())),
    )


def _chain_from(raw: Mapping[str, Any]) -> Chain:
    return Chain(ip_network(raw["prefix"]), {link: _state_from(raw["links"][link.value]) for link in Link})


def _way_from(raw: Mapping[str, Any]) -> Way:
    return Way(
        prefix=ip_network(raw["prefix"]),
        peer=raw["peer"],
        name=raw["name"],
        online=raw["online"],
        routed=raw["routed"],
        delivered=_state_from(raw["delivered"]),
        rtt_ms=raw.get("rtt_ms"),
        path=raw.get("path", ""),
    )


def _state_from(raw: Mapping[str, Any]) -> LinkState:
    trouble = raw.get("trouble")
    return LinkState(
        Holds(raw["holds"]), raw.get("evidence", ""), _trouble_from(trouble) if trouble else None, raw.get("since", 0.0)
    )


def _finding_from(raw: Mapping[str, Any]) -> Finding:
    return Finding(raw["key"], _trouble_from(raw["trouble"]), raw.get("since", 0.0))


def _trouble_from(raw: Mapping[str, Any]) -> Refusal:
    return Refusal(raw["code"], raw["msg"], raw.get("details", ""))


# --- in small, for status.json


def summary(view: View) -> dict[str, Any]:
    """Its size grows with what is wrong on this node, never with the number of its pods or of other nodes."""
    own = _gathered(view)
    missing = {name: each for name, chains in own.items() if (each := [c for c in chains if not c.in_force])}
    delivered = [way.delivered.holds for way in view.ways]
    return {
        "state": view.state,
        "member": outside(view) is None,
        "seen": view.written,
        "node_key": view.key,
        "addresses": [str(each) for each in view.addresses],
        "in_force": {name: name not in missing for name in own},
        "missing": {name: _trouble(chains[0].missing) for name, chains in missing.items()},
        "findings": [_trouble(each) for each in (*[each.trouble for each in view.findings], *_beyond(cidrs(view)))],
        "peers": view.peers,
        "peers_online": view.peers_online,
        "ways": len(view.ways),
        "ways_reachable": delivered.count(Holds.YES),
        "ways_unreachable": delivered.count(Holds.NO),
    }


def _gathered(view: View) -> dict[str, list[Chain]]:
    """Pods that are announced one by one are one thing for each family: they may be hundreds, and come and go."""
    gathered = {str(chain.prefix): [chain] for chain in cidrs(view)}
    for chain in lone_pods(view):
        gathered.setdefault(f"IPv{chain.prefix.version} pods", []).append(chain)
    return gathered


def _beyond(chains: Iterable[Chain]) -> list[Refusal]:
    """What hinders a prefix that may well be in force."""
    links = [chain.links[link] for chain in chains for link in (Link.ACCEPTED, Link.DELIVERED)]
    return [link.trouble for link in links if link.trouble is not None and link.holds is Holds.NO]


def _trouble(refusal: Refusal | None) -> dict[str, Any]:
    if refusal is None:
        return {"code": 0, "what": "it cannot be told yet", "cure": "see again in a moment"}
    return {"code": int(refusal.code), "what": refusal.msg, "cure": refusal.details}
