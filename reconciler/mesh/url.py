"""The one spelling of a control server's URL, so that two of them can be compared as text.

Scheme and host in lower case, no port where it is the usual one, no slash at the end. Headscale serves at the root of
its host and nowhere else, so a path is a mistake (often /api/v1, or that of a web interface), and it is told, not cut
off. A user name in a URL may come with a password: such a URL is refused without being repeated.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv6Address
from urllib.parse import SplitResult, urlsplit

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble

_USUAL_PORT = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_.])?")
_EXAMPLE = "https://headscale.example.com or http://192.0.2.1:8080"


def check_url(text: str) -> str | Refusal:
    text = text.strip()
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:  # a port that is no number, a bracket without its other
        return _wrong(_shown(text), "is not a URL")
    if parts.scheme not in _USUAL_PORT:
        return _wrong(_shown(text), "does not begin with http:// or https://")
    if parts.username is not None or parts.password is not None:
        return _wrong("of Headscale", "holds a user name or a password", "write it without them; the API key is enough")
    host = _host(parts)
    if host is None or port == 0:
        return _wrong(_shown(text), "names no host")
    origin = f"{parts.scheme}://{host}" + ("" if port in (None, _USUAL_PORT[parts.scheme]) else f":{port}")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        return _wrong(_shown(text), "has something behind the host", f"write {origin}")
    return origin


def _host(parts: SplitResult) -> str | None:
    host = parts.hostname or ""
    if "[" not in parts.netloc:
        return host if _HOST.fullmatch(host) else None
    try:
        return f"[{IPv6Address(host)}]"
    except AddressValueError:
        return None


def _shown(text: str) -> str:
    """What may hold a password before an @ is not repeated."""
    return "of Headscale" if "@" in text else repr(text)


def _wrong(which: str, what: str, cure: str = "") -> Refusal:
    cure = cure or f"write scheme, host and port, like {_EXAMPLE}"
    return Refusal(Trouble.HEADSCALE_URL, f"the URL {which} {what}", cure)
