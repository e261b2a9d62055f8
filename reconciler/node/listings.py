"""Listings of packet filters, understood as far as needed to tell whether pods' packets pass. Pure.

Whatever is not understood of a rule makes it `narrow`: a rule that may or may not match, from which nothing follows.
So a listing of a newer nft, or a match nobody has heard of, leads to no wrong conclusion, only to fewer.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from reconciler.ipam.pool import Network

FAMILIES = ("ip", "ip6", "inet")
_VERDICTS = ("accept", "drop", "reject", "return")
_NEUTRAL = ("counter", "log", "mangle", "notrack")
_NEUTRAL_XT = ("comment", "LOG", "NFLOG")


@dataclass(frozen=True, slots=True)
class Chain:
    family: str
    table: str
    name: str
    hook: str = ""
    policy: str = ""
    legacy: bool = False

    def __str__(self) -> str:
        older = " of iptables-legacy" if self.legacy else ""
        return f"chain {self.name} of table {self.family} {self.table}{older}"


@dataclass(frozen=True, slots=True)
class Rule:
    """No condition of a kind: empty. It has others that are not understood: `narrow`."""

    verdict: str = ""  # accept, drop, reject, return, jump, goto
    target: str = ""  # of jump and goto
    sources: tuple[Network, ...] = ()
    destinations: tuple[Network, ...] = ()
    iif: tuple[str, ...] = ()  # names, or beginnings of names with a star
    oif: tuple[str, ...] = ()
    narrow: bool = False

    @property
    def unconditional(self) -> bool:
        return not (self.sources or self.destinations or self.iif or self.oif or self.narrow)


Listing = Sequence[Mapping[str, Any]]  # what `nft --json` has under "nftables"
Rules = Mapping[str, Sequence[Rule]]  # by chain


# --- nft's JSON


def chains_in(listing: Listing) -> Iterator[Chain]:
    for entry in _entries(listing, "chain"):
        yield Chain(entry["family"], entry["table"], entry["name"], entry.get("hook", ""), entry.get("policy", ""))


def rules_in(listing: Listing) -> Rules:
    found: defaultdict[str, list[Rule]] = defaultdict(list)
    for entry in _entries(listing, "rule"):
        found[entry["chain"]].append(_rule(entry["expr"]))
    return found


def _entries(listing: Listing, kind: str) -> Iterator[Mapping[str, Any]]:
    return (each[kind] for each in listing if kind in each)


def _rule(expressions: Iterable[Mapping[str, Any]]) -> Rule:
    known: dict[str, Any] = {}
    for expression in expressions:
        for kind, value in expression.items():
            if kind in _VERDICTS:
                known["verdict"] = kind
            elif kind in ("jump", "goto"):
                known.update(verdict=kind, target=value["target"])
            elif kind == "match":
                known.update(_match(value))
            elif kind not in _NEUTRAL and not (kind == "xt" and (value or {}).get("name") in _NEUTRAL_XT):
                known["narrow"] = True
    return Rule(**known)


def _match(match: Mapping[str, Any]) -> dict[str, Any]:
    left = match["left"] if match["op"] in ("==", "in") and isinstance(match["left"], dict) else {}
    values = _values(match["right"])
    field, key = left.get("payload", {}).get("field"), left.get("meta", {}).get("key")
    if field in ("saddr", "daddr"):
        networks = [_network(value) for value in values]
        if networks and None not in networks:
            return {{"saddr": "sources", "daddr": "destinations"}[field]: tuple(networks)}
    if key in ("iifname", "iif", "oifname", "oif") and all(isinstance(value, str) for value in values):
        return {key[:3]: tuple(values)}
    return {"narrow": True}


def _values(right: Any) -> list[Any]:
    within = right.get("set") if isinstance(right, dict) else None
    return within if isinstance(within, list) else [right]


def _network(value: Any) -> Network | None:
    prefix = value.get("prefix") if isinstance(value, dict) else None
    try:
        return ip_network(f"{prefix['addr']}/{prefix['len']}" if prefix else value, strict=False)
    except ValueError:  # a range, a named set
        return None


# --- iptables-save


def saved_chains(family: str, table: str, saved: str) -> Iterator[Chain]:
    for line in saved.splitlines():
        if line.startswith(":"):
            name, policy = line[1:].split()[:2]
            base = policy != "-"
            yield Chain(family, table, name, name.lower() if base else "", policy.lower() if base else "", legacy=True)


def saved_rules(saved: str) -> Rules:
    found: defaultdict[str, list[Rule]] = defaultdict(list)
    for line in saved.splitlines():
        if line.startswith("-A "):
            _, chain, *words = shlex.split(line)
            found[chain].append(_saved_rule(words))
    return found


def _saved_rule(words: list[str]) -> Rule:
    known: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        if word in ("-s", "-d"):
            known["sources" if word == "-s" else "destinations"] = (ip_network(next(rest)),)
        elif word in ("-i", "-o"):
            known[f"{word[1]}if"] = (next(rest).replace("+", "*"),)
        elif word in ("-j", "-g"):
            target = next(rest)
            verdict = target.lower() if target.lower() in _VERDICTS else "jump" if word == "-j" else "goto"
            known.update(verdict=verdict, target=target)
            break  # what follows is the target's
        elif word == "--comment":
            next(rest)
        elif word == "-m" and next(rest) == "comment":
            continue
        else:
            known["narrow"] = True  # also "!", which turns the next one around
    return Rule(**known)
