"""`podcidr.json`: the pod CIDR that this node had last, and where it came from.

A node that has once had a CIDR keeps it through a start without files and without an API: pods that run have addresses
of it. It also tells a start that the CIDR is another one now, so that the change can be explained until the last pod
with an old address is gone (`before`). It is on the disk before the first address of it is given; a power loss right
then costs nothing, for a guess is the same the next time.

What an operator configured is written, so that its change is noticed, and never used again by itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

import orjson

from reconciler.node.formats import About
from reconciler.node.podcidr import Choice, Source
from reconciler.node.shares import Networks
from reconciler.store import NoSpace, Store, read_bytes
from statemachine.envelope import PRETTY, Damaged, parsed

FORMAT = "headcni/podcidr/1"
FILE = "podcidr.json"


@dataclass(frozen=True, slots=True)
class Remembered:
    node: str
    cidrs: Networks
    source: Source  # never REMEMBERED: what gave it first
    since: float
    guess: bool = False
    cluster: Networks = ()  # as files said; empty: they did not
    services: Networks = ()
    before: Networks = ()  # former ones that pods may have addresses of


def renewed(old: Remembered | None, choice: Choice, now: float) -> Remembered:
    """What is to be remembered after a choice."""
    source = old.source if old and choice.source is Source.REMEMBERED else choice.source
    former = (*old.before, *old.cidrs) if old else ()
    unchanged = old is not None and (old.cidrs, old.source) == (choice.cidrs, source)
    return Remembered(
        node=choice.node,
        cidrs=choice.cidrs,
        source=source,
        since=old.since if old and unchanged else now,
        guess=choice.guess,
        cluster=_from_files(choice, About.CLUSTER),
        services=_from_files(choice, About.SERVICES),
        before=tuple(dict.fromkeys(cidr for cidr in former if cidr not in choice.cidrs)),
    )


def _from_files(choice: Choice, about: About) -> Networks:
    lasting = (Source.FILES, Source.REMEMBERED)
    taken = [each for each in choice.findings if each.about is about and each.taken and each.source in lasting]
    return taken[0].found if taken else ()


def read(root: str) -> Remembered | None:
    """None: there is no such file. Raises OSError, `Damaged` and `UnknownVersion`."""
    try:
        return decode(read_bytes(f"{root}/{FILE}"))
    except FileNotFoundError:
        return None


def save(store: Store, remembered: Remembered) -> NoSpace | None:
    """Once this has returned None, it survives a power loss."""
    no_space = store.write(FILE, encode(remembered))
    if no_space is None:
        for path, flags in ((f"{store.root}/{FILE}", os.O_RDONLY), (str(store.root), os.O_RDONLY | os.O_DIRECTORY)):
            fd = os.open(path, flags | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
    return no_space


def encode(remembered: Remembered) -> bytes:
    body = {
        "format": FORMAT,
        "node": remembered.node,
        "cidrs": _texts(remembered.cidrs),
        "source": remembered.source.value,
        "since": remembered.since,
        "guess": remembered.guess,
        "cluster": _texts(remembered.cluster),
        "services": _texts(remembered.services),
        "before": _texts(remembered.before),
    }
    return orjson.dumps(body, option=PRETTY)


def decode(raw: bytes) -> Remembered:
    body = parsed(raw, FORMAT)
    try:
        return Remembered(
            node=str(body["node"]),
            cidrs=_networks(body["cidrs"]),
            source=Source(body["source"]),
            since=float(body["since"]),
            guess=bool(body["guess"]),
            cluster=_networks(body["cluster"]),
            services=_networks(body["services"]),
            before=_networks(body["before"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"field missing or malformed: {error!r}") from None


def _texts(cidrs: Iterable[Any]) -> list[str]:
    return [str(cidr) for cidr in cidrs]


def _networks(texts: Iterable[str]) -> Networks:
    return tuple(ip_network(text) for text in texts)
