"""tailscaled's JSON as values of the mesh, and what of it makes a tailscaled unfit to carry pods.

Every version of tailscaled has other fields, so nothing here fails: what is missing, of another type or unreadable is
passed over, and the value has its default. Whether an answer is JSON at all is the caller's question.

A status of a thousand peers is read each time something happened, and nearly every peer in it is as it was before: so
one of which the same is said as in the last status is the same object, which makes comparing two answers cheap, too.
Only the last status is remembered, for endpoints change all the time and hardly ever come back.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any

import orjson

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble
from reconciler.mesh.model import Peer, Prefs, Tailnet
from reconciler.mesh.ports import Notice
from reconciler.operate.log import redacted
from reconciler.settings import IpAddress, Network

OLDEST = (1, 66, 0)
TEXTS_REMEMBERED = 1 << 14
FELL_BEHIND = "fell behind"  # the last words to a watcher who read too slowly
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")
_Said = tuple[Any, ...]  # of one peer: the arguments of `_made`
_last: dict[str, tuple[_Said, Peer]] = {}  # by key, of the last status
_NO_KEY = re.compile(r"(nodekey:)?0*")  # what a node that never joined has as its key


def tailnet(body: dict[str, Any]) -> Tailnet:
    current = _object(body.get("CurrentTailnet"))
    peers = _peers(_object(body.get("Peer")))
    return Tailnet(
        version=_text(body.get("Version")),
        state=_text(body.get("BackendState")) or "NoState",
        has_node_key=body.get("HaveNodeKey") is True,
        tun=body.get("TUN") is not False,
        auth_url=_text(body.get("AuthURL")),
        health=tuple(map(redacted, _texts(body.get("Health")))),
        me=_made(*_said(_object(body.get("Self")))),
        peers={peer.key: peer for peer in peers if peer.key},
        magic_suffix=_text(current.get("MagicDNSSuffix")) or _text(body.get("MagicDNSSuffix")),
        magic_enabled=current.get("MagicDNSEnabled") is True,
        owner=_owner(body),
    )


def _owner(body: dict[str, Any]) -> str:
    """As a policy of Headscale 0.26 or newer writes it."""
    me = _object(body.get("Self"))
    tags = _texts(me.get("Tags"))
    login = _text(_object(_object(body.get("User")).get(str(me.get("UserID")))).get("LoginName"))
    return tags[0] if tags else login if "@" in login or not login else f"{login}@"


def preferences(body: dict[str, Any]) -> Prefs:
    return Prefs(
        control_url=_text(body.get("ControlURL")),
        want_running=body.get("WantRunning") is True,
        logged_out=body.get("LoggedOut") is True,
        advertise=_texts(body.get("AdvertiseRoutes")),
        raw={name: value for name, value in body.items() if name != "Config"},  # the profile: keys, blanked
    )


def notice(line: bytes | None) -> Notice:
    """One line of the event bus; None: one too long to be read, so a netmap. Most say only that something happened.

    A whole map of the network says of this node whatever is to be said, so it counts as news about it: `SelfChange`
    from 1.98 on, `NetMap` before. It comes also when only others changed, and may say the same as the one before.
    """
    if line is None:
        return Notice(about_me=True)
    try:
        said = orjson.loads(line)
    except orjson.JSONDecodeError:
        return Notice()
    if not isinstance(said, dict):
        return Notice()
    prefs = said.get("Prefs")
    return Notice(
        about_me=said.get("SelfChange") is not None or said.get("NetMap") is not None,
        written=(_texts(prefs.get("AdvertiseRoutes")),) if isinstance(prefs, dict) else (),
        error=redacted(_text(said.get("ErrMessage"))),
    )


def version(text: str) -> tuple[int, int, int] | None:
    """None: not a released version, so nobody knows what it can do."""
    found = _VERSION.match(text)
    return None if found is None else (int(found[1]), int(found[2]), int(found[3] or 0))


def unsuitable(seen: Tailnet) -> Refusal | None:
    """Why this tailscaled cannot carry pods, whatever is done to its preferences."""
    known = version(seen.version)
    if known is not None and known < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return Refusal(
            Trouble.TAILSCALED_UNSUITABLE,
            f"tailscaled is version {seen.version}, and pods need {oldest} or newer",
            f"upgrade tailscaled to {oldest} or newer: only from there on can its stateful filtering, which drops"
            " what pods send, be switched off (NoStatefulFiltering)",
        )
    if not seen.tun:
        return Refusal(
            Trouble.TAILSCALED_UNSUITABLE,
            "tailscaled runs with userspace networking (TUN is false), so the kernel cannot send packets through it",
            "start tailscaled without --tun=userspace-networking; in a container it needs /dev/net/tun and NET_ADMIN",
        )
    return None


def _peers(raw: dict[str, Any]) -> list[Peer]:
    now: dict[str, tuple[_Said, Peer]] = {}
    for key, each in raw.items():
        if isinstance(each, dict):
            said, before = _said(each, key), _last.get(key)
            now[key] = before if before is not None and before[0] == said else (said, _made(*said))
    _last.clear()
    _last.update(now)
    return [peer for _, peer in now.values()]


def _said(raw: dict[str, Any], key: str = "") -> _Said:
    return (
        _text(raw.get("PublicKey")) or key,
        _text(raw.get("ID")),
        _text(raw.get("HostName")),
        _text(raw.get("DNSName")),
        _texts(raw.get("TailscaleIPs")),
        _texts(raw.get("AllowedIPs")),
        _texts(raw.get("PrimaryRoutes")),
        raw.get("Online") is True,
        raw.get("Expired") is True,
        _text(raw.get("KeyExpiry")),
        _text(raw.get("CurAddr")),
        _text(raw.get("Relay")),
    )


def _made(
    key: str,
    id: str,
    host_name: str,
    dns_name: str,
    own: tuple[str, ...],
    allowed: tuple[str, ...],
    primary: tuple[str, ...],
    online: bool,
    expired: bool,
    key_expiry: str,
    direct: str,
    relay: str,
) -> Peer:
    dns_name = dns_name.rstrip(".")
    alone = {f"{address}/{128 if ':' in address else 32}" for address in own}
    return Peer(
        key="" if _NO_KEY.fullmatch(key) else key,
        id=id,
        name=dns_name.partition(".")[0] or host_name,
        dns_name=dns_name,
        addresses=tuple([address for address in map(_address, own) if address is not None]),
        routes=_networks(tuple([text for text in allowed if text not in alone])),
        primary=_networks(primary),
        online=online,
        expired=expired,
        key_expiry=key_expiry,
        direct=direct,
        relay=relay,
    )


@lru_cache(TEXTS_REMEMBERED)
def _networks(texts: tuple[str, ...]) -> frozenset[Network]:
    return frozenset([network for network in map(_network, texts) if network is not None])


@lru_cache(TEXTS_REMEMBERED)
def _address(text: str) -> IpAddress | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


@lru_cache(TEXTS_REMEMBERED)
def _network(text: str) -> Network | None:
    try:
        return ip_network(text)
    except ValueError:
        return None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: Any) -> tuple[str, ...]:
    return tuple([each for each in value if isinstance(each, str)]) if isinstance(value, list) else ()
