"""Taking values out of JSON that anybody may have written: what is wrong is noted, not raised.

Each method answers with a value of the type asked for, or with what stands for "nothing" of that type, so a caller
reads on and all problems are told at once: field, value and cure. Nothing here knows what the fields mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import orjson

from reconciler.ipam.pool import Address, Network


class Reader:
    """Collects problems while fields are taken out of the configuration."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def wrong(self, name: str, value: object, cure: str) -> None:
        self.problems.append(f"{name}: {short(value)} {cure}")

    def address(self, name: str, value: object) -> Address | None:
        try:
            return plain_address(str(value))
        except ValueError:
            self.wrong(name, value, "is not an IP address; write one without a prefix, such as 10.244.1.1")
            return None

    def network(self, name: str, value: object) -> Network | None:
        text = str(value)
        try:
            if "/" in text and "%" not in text:
                return ip_network(text)
            self.wrong(name, value, "is not a subnet; write one with its prefix, such as 10.244.1.0/24")
        except ValueError as error:
            if "host bits" in str(error):
                self.wrong(name, value, f"has host bits set; write {ip_interface(text).network}")
            else:
                self.wrong(name, value, "is not a subnet; write one with its prefix, such as 10.244.1.0/24")
        return None

    def networks(self, name: str, value: object) -> tuple[Network, ...]:
        """One CIDR, or one for each family with a comma between them, as Kubernetes writes them."""
        if value is None or value == "":
            return ()
        parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else [value]
        return tuple(network for part in parts if (network := self.network(name, part)) is not None)

    def mapping(self, name: str, value: object) -> Mapping[str, Any]:
        if isinstance(value, dict):
            return value
        if value is not None:
            self.wrong(name, value, "is not an object; write {…}")
        return {}

    def items(self, name: str, value: object) -> Sequence[Any]:
        if isinstance(value, list):
            return value
        if value is not None:
            self.wrong(name, value, "is not a list; write […]")
        return []

    def flag(self, name: str, value: object, default: bool) -> bool:
        if value is None or isinstance(value, bool):
            return default if value is None else value
        self.wrong(name, value, "is neither true nor false")
        return default


def plain_address(text: str) -> Address:
    """No zone: the link it names would be another one in the pod."""
    if "%" in text:
        raise ValueError(f"{text} names a link")
    return ip_address(text)


def short(value: object) -> str:
    """As JSON writes it; not what is inside of a list or an object, which may be deep, and may be secret."""
    if isinstance(value, dict | list):
        around = "{}" if isinstance(value, dict) else "[]"
        return around[0] + ("…" if value else "") + around[1]
    text = orjson.dumps(value).decode()
    return text if len(text) <= 80 else text[:79] + "…"
