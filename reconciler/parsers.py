"""What a setting may be: each parser gets what was written, and returns the value or `Wrong`.

What was written is text from a flag or variable, or whatever YAML made of it from the file. `Wrong` says what is
wrong and what to write instead; the caller adds which setting it was, and where it came from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any

Network = IPv4Network | IPv6Network
IpAddress = IPv4Address | IPv6Address
Parse = Callable[[Any], Any]

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_NODE = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_CONFLIST = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}\.conflist")
_TAG = re.compile(r"tag:[A-Za-z][A-Za-z0-9-]*")


@dataclass(frozen=True, slots=True)
class Wrong:
    what: str
    cure: str
    hidden: bool = False  # what was written is not shown with it: it may hold a secret


@dataclass(frozen=True, slots=True)
class StaticRoute:
    dst: Network
    via: IpAddress

    def __str__(self) -> str:
        return f"{self.dst}={self.via}"


def real_path(given: str | Path) -> Path:
    """The one spelling of a directory: the daemon's links are known by it, so every command must find the same."""
    return Path(os.path.realpath(given))


def path(raw: Any) -> Path | Wrong:
    given = file_path(raw)
    return real_path(given) if isinstance(given, Path) else given


def file_path(raw: Any) -> Path | Wrong:
    """As it was given: what is behind a link may change (sockets are made anew, mounted Secrets are renewed)."""
    if isinstance(raw, str) and raw.startswith("/") and "\0" not in raw:
        return Path(raw)
    return Wrong("is not an absolute path", "write a path that begins with /")


def optional_file(raw: Any) -> Path | Wrong | None:
    return None if raw == "" else file_path(raw)


def key_file(raw: Any) -> Path | Wrong | None:
    """Whoever takes it for the place of the key itself must not find that key in a log."""
    given = optional_file(raw)
    if isinstance(given, Wrong):
        cure = "write a path that begins with /, of a file that holds the key"
        return Wrong(given.what, cure, hidden=True)
    return given


def networks(raw: Any) -> tuple[Network, ...] | Wrong:
    """At most one of each address family."""
    found = any_networks(raw)
    if isinstance(found, Wrong):
        return found
    families = [network.version for network in found]
    if len(set(families)) < len(families):
        return Wrong("names one address family twice", "give at most one IPv4 and one IPv6 CIDR")
    return found


def any_networks(raw: Any) -> tuple[Network, ...] | Wrong:
    found: list[Network] = []
    for item in _items(raw):
        try:
            network = ip_network(item, strict=False) if isinstance(item, str) and "/" in item else None
        except ValueError:
            network = None
        if network is None:
            return Wrong(f"{item!r} is not a CIDR", "write an address and a prefix length, like 10.244.1.0/24")
        if ip_address(item.partition("/")[0]) != network.network_address:
            return Wrong(f"{item!r} has bits set beyond its prefix length", f"write {network}")
        found.append(network)
    return tuple(found)


def routes(raw: Any) -> tuple[StaticRoute, ...] | Wrong:
    cure = "write dst and via, like 10.244.2.0/24=192.0.2.2 or {dst: 10.244.2.0/24, via: 192.0.2.2}"
    found: list[StaticRoute] = []
    for item in _items(raw):
        if isinstance(item, Mapping) and set(item) == {"dst", "via"}:
            dst, via = str(item["dst"]), str(item["via"])
        elif isinstance(item, str) and "=" in item:
            dst, via = (part.strip() for part in item.split("=", 1))
        else:
            return Wrong(f"{item!r} is not a route", cure)
        try:
            route = StaticRoute(ip_network(dst), ip_address(via))
        except ValueError as error:
            return Wrong(f"route {dst} via {via}: {error}", cure)
        if route.dst.version != route.via.version:
            return Wrong(f"route {dst} via {via} mixes IPv4 and IPv6", "give a next hop of the family of dst")
        if any(route.dst == other.dst for other in found):
            return Wrong(f"has two routes to {dst}", "keep one of them")
        found.append(route)
    return tuple(found)


def _items(raw: Any) -> list[Any]:
    """A list, or text with commas, or (from a repeated flag) a list of such texts."""
    items = raw if isinstance(raw, list | tuple) else [raw]
    flat: list[Any] = []
    for item in items:
        flat += [part.strip() for part in item.split(",") if part.strip()] if isinstance(item, str) else [item]
    return flat


def boolean(raw: Any) -> bool | Wrong:
    if isinstance(raw, bool):
        return raw
    known = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    value = known.get(str(raw).lower())
    return Wrong("is neither true nor false", "write true or false") if value is None else value


def between(low: int, high: int, or_zero: bool = False) -> Parse:
    def parse(raw: Any) -> int | Wrong:
        text = str(raw).strip()
        value = int(text) if text.isascii() and text.isdigit() and not isinstance(raw, bool) else -1
        if low <= value <= high or (or_zero and value == 0):
            return value
        zero = "0 or " if or_zero else ""
        return Wrong("is out of range", f"write a whole number: {zero}{low} to {high}")

    return parse


def prefix_length(raw: Any) -> int | Wrong:
    value = between(8, 30)(raw.removeprefix("/") if isinstance(raw, str) else raw)
    if isinstance(value, int):
        return value
    return Wrong("is not a prefix length for a node", "write /8 to /30, like /24")


def choice(*known: str) -> Parse:
    def parse(raw: Any) -> str | Wrong:
        text = "off" if raw is False else str(raw).lower()  # YAML reads a bare `off` as false
        return text if text in known else Wrong("is unknown", "write one of " + ", ".join(known))

    return parse


def local_address(raw: Any) -> str | Wrong:
    try:
        return str(ip_address(str(raw)))
    except ValueError:
        return Wrong("is not an IP address", "write one of this node's, like 127.0.0.1, or :: for all")


def url_path(raw: Any) -> str | Wrong:
    if isinstance(raw, str) and raw.startswith("/") and not set(raw) & set(" ?#"):
        return raw
    return Wrong("is not the path of a URL", "write a path that begins with /, like /metrics")


def control_url(raw: Any) -> str | Wrong:
    if raw == "":
        return ""
    from reconciler.mesh.url import check_url  # late: most commands never parse one

    checked = check_url(str(raw))
    return checked if isinstance(checked, str) else Wrong(checked.msg, checked.details, hidden=True)


def api_url(raw: Any) -> str | Wrong:
    """With a path, where a gateway serves several clusters."""
    if raw == "":
        return ""
    from urllib.parse import urlsplit  # late: most commands never parse one

    cure = "write scheme, host and port, like https://192.0.2.1:6443"
    try:
        parts = urlsplit(str(raw).strip())
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known or "@" in str(raw) or parts.query or parts.fragment:
        return Wrong("is not the URL of an API server", cure, hidden="@" in str(raw))
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        return Wrong("is not encrypted, and credentials would be sent in clear", "write https://")
    return str(raw).strip().rstrip("/")


def conflist_name(raw: Any) -> str | Wrong:
    if isinstance(raw, str) and _CONFLIST.fullmatch(raw):
        return raw
    return Wrong("is not the name of a .conflist", "write a file name without a directory, like 10-headcni.conflist")


def host_name(raw: Any) -> str | Wrong:
    if isinstance(raw, str) and (raw == "" or _LABEL.fullmatch(raw)):
        return raw
    return Wrong("is not a host name", "write letters, digits and hyphens, at most 63 and no dot, like node-7")


def node_name(raw: Any) -> str | Wrong:
    """Without one the host's name, as a kubelet has it, whatever characters that holds."""
    if raw == "":
        return os.uname().nodename.strip().lower()
    if isinstance(raw, str) and _NODE.fullmatch(raw):
        return raw
    return Wrong("is not the name of a node", "write it as `kubectl get nodes` does: a-z, 0-9, hyphens and dots")


def tags(raw: Any) -> tuple[str, ...] | Wrong:
    found = _items(raw)
    for item in found:
        if not isinstance(item, str) or not _TAG.fullmatch(item):
            return Wrong(f"{item!r} is not a tag", "write tag: and a name of letters, digits and hyphens, like tag:k8s")
    return tuple(dict.fromkeys(found))
