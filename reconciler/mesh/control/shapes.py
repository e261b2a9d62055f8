"""From the JSON of a node to a `ControlNode`, whatever the generation.

Strict about what must be there, because a list that is missing would otherwise look like one that is empty.
Lenient about single texts inside a list: an address or prefix that we cannot read matches nothing, and must not cost
the other nodes their routes. A prefix with host bits is such a one: Headscale stores it so, and never serves it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from reconciler.mesh.model import ControlNode
from reconciler.settings import IpAddress, Network

Object = Mapping[str, Any]
KEY_PREFIX = "nodekey:"  # 0.22 leaves it out


class Unexpected(Exception):
    """The answer has not the form it must have; the text says what is wrong, and quotes no value."""


def prefix(text: str) -> Network | None:
    try:
        return ip_network(text)
    except ValueError:
        return None


def prefixes(texts: Iterable[str]) -> frozenset[Network]:
    return frozenset(found for text in texts if (found := prefix(text)) is not None)


def objects(answer: Any, name: str) -> list[Object]:
    found = answer.get(name) if isinstance(answer, Mapping) else None
    if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
        raise Unexpected(f"it has no list of objects {name!r}")
    return found


def texts(found: Object, name: str) -> tuple[str, ...]:
    value = found.get(name)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise Unexpected(f"an object in it has no list of texts {name!r}")
    return tuple(value)


def text(found: Object, name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str) or not value:
        raise Unexpected(f"an object in it has no text {name!r}")
    return value


def identifier(found: Object) -> str:
    """Decimal digits, as text: it becomes part of a path."""
    value = str(found.get("id"))
    if not (value.isascii() and value.isdigit()):
        raise Unexpected("an object in it has no number 'id'")
    return value


def node(
    found: Object, announced: frozenset[Network], approved: frozenset[Network], primary: frozenset[Network]
) -> ControlNode:
    user = found.get("user")
    return ControlNode(
        id=identifier(found),
        name=str(found.get("givenName") or found.get("name") or ""),
        key=_key(found),
        addresses=_addresses(texts(found, "ipAddresses")),
        online=found.get("online") is True,
        user=str(user.get("name") or "") if isinstance(user, Mapping) else "",
        tags=_tags(found),
        announced=announced,
        approved=approved,
        primary=primary,
    )


def _key(found: Object) -> str:
    """Empty for a node that has none: one that was made by hand through Headscale's debug call."""
    value = found.get("nodeKey")
    if not isinstance(value, str):
        raise Unexpected("an object in it has no text 'nodeKey'")
    digits = value.removeprefix(KEY_PREFIX)
    return KEY_PREFIX + digits if digits.strip("0") else ""


def _addresses(given: tuple[str, ...]) -> tuple[IpAddress, ...]:
    found: list[IpAddress] = []
    for each in given:
        try:
            found.append(ip_address(each))
        except ValueError:
            continue
    return tuple(found)


def _tags(found: Object) -> tuple[str, ...]:
    """One list since 0.28; before, those that an administrator gave and those that the policy granted."""
    lists = [value for name in ("tags", "forcedTags", "validTags") if isinstance(value := found.get(name), list)]
    return tuple(dict.fromkeys(str(each) for value in lists for each in value))
