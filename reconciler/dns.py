"""What the result tells of name resolution: `dns` of the network configuration, and MagicDNS where it is enabled.

Both are in one list of name servers, and a resolver asks them in order. tailscaled's own (100.100.100.100) comes first:
with accept-dns off it knows the tailnet's names and answers SERVFAIL to all others, so the next one is asked; a
cluster's name server would say of the tailnet's names that they do not exist, and that is final. Of search domains the
cluster's come first, so that no node of the tailnet can take a Service's short name.

Most container runtimes ignore a result's `dns`; `headcni mesh dns` prints what works in spite of that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cni.result import Dns, dns_from
from reconciler.reader import Reader

MAGIC_SERVER = "100.100.100.100"
MAGIC_KEYS = ("enable", "base_domain", "nameservers", "search_domains")

_LABEL = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")


def read_dns(reader: Reader, body: Mapping[str, Any], ipam: Mapping[str, Any], magic_dns: Mapping[str, Any]) -> Dns:
    plain = reader.mapping("dns", body.get("dns")) or reader.mapping("ipam.dns", ipam.get("dns"))
    _check_plain(reader, plain)
    magic = _magic(reader, magic_dns)
    return Dns() if reader.problems else _merged(magic, dns_from(plain))


def _check_plain(reader: Reader, raw: Mapping[str, Any]) -> None:
    for key in ("nameservers", "search", "options"):
        for each in reader.items(f"dns.{key}", raw.get(key)):
            if not isinstance(each, str):
                reader.wrong(f"dns.{key}", each, "is not a string; write a list of strings")
    if not isinstance(raw.get("domain") or "", str):
        reader.wrong("dns.domain", raw["domain"], "is not a name, such as cluster.local")


def _magic(reader: Reader, raw: Mapping[str, Any]) -> Dns:
    """Read, and so checked, also where it is not enabled."""
    servers = [
        reader.address("magic_dns.nameservers", each)
        for each in reader.items("magic_dns.nameservers", raw.get("nameservers"))
    ]
    domain = _name(reader, "magic_dns.base_domain", raw["base_domain"]) if raw.get("base_domain") else ""
    search = [
        _name(reader, "magic_dns.search_domains", each)
        for each in reader.items("magic_dns.search_domains", raw.get("search_domains"))
    ]
    if not reader.flag("magic_dns.enable", raw.get("enable"), False):
        return Dns()
    return Dns(
        nameservers=tuple(map(str, servers)) or (MAGIC_SERVER,),
        domain=domain,
        search=(*search, domain) if domain else tuple(search),
    )


def _name(reader: Reader, field: str, value: object) -> str:
    name = value.removesuffix(".") if isinstance(value, str) else ""
    if len(name) > 253 or not _NAME.fullmatch(name):
        reader.wrong(field, value, "is not a domain name, such as tail.example.com")
    return name


def _merged(magic: Dns, plain: Dns) -> Dns:
    return Dns(
        nameservers=tuple(dict.fromkeys((*magic.nameservers, *plain.nameservers))),
        domain=plain.domain or magic.domain,
        search=tuple(dict.fromkeys((*plain.search, *magic.search))),
        options=plain.options,
    )
