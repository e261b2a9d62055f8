"""tailscaled's preferences that pods need: which, why, since when we are fought over them, and how they go back.

Read first, change only what differs, and record what was there before the first change: `remembered` before the edit.
Uninstalling puts back what still is as we left it. WantRunning is not put back: a node that was joined stays joined,
for whoever uninstalls may be connected through it.

Somebody who turns a preference back is outvoted twice. The third time in ten minutes it is a fight (`Tug`): two
programs that undo each other cut the pods off with each stroke, so it is left as it is and told. Ten minutes without
a stroke, or the word of an operator, and it is tried again.

A preference that is missing from tailscaled's answer is one that this version does not have: nothing to set.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble
from reconciler.mesh.model import Finding, Prefs
from reconciler.mesh.record import Changed, MeshRecord
from reconciler.settings import as_text


@dataclass(frozen=True, slots=True)
class Required:
    name: str
    value: Any
    reason: str
    put_back: bool = True  # on uninstall


REQUIRED = (
    Required("RouteAll", True, "without it tailscaled neither sends to pods of other nodes nor accepts from them"),
    Required("NoSNAT", True, "a pod must be seen under its own address, not under that of its node"),
    Required("NoStatefulFiltering", True, "stateful filtering drops the connections that pods open to other nodes"),
    Required("ShieldsUp", False, "with it on, what other nodes send to pods is dropped without a sign"),
    Required("CorpDNS", False, "the node's resolver is not HeadCNI's to change, and pods do not need it changed"),
    Required("WantRunning", True, "a stopped tailscaled carries no packet", put_back=False),
)
_ASKED_FOR_DNS = Required("CorpDNS", True, "the configuration asks for the tailnet's DNS on the node")
_PUT_BACK = frozenset(each.name for each in REQUIRED if each.put_back)
_EXIT_ROUTES = ("0.0.0.0/0", "::/0")

FIGHT = 3  # times turned back
PEACE = 600.0  # seconds


@dataclass(frozen=True, slots=True)
class Difference:
    name: str
    now: Any
    must: Any
    reason: str


def required(accept_dns: bool) -> tuple[Required, ...]:
    return tuple(_ASKED_FOR_DNS if accept_dns and each.name == "CorpDNS" else each for each in REQUIRED)


def differences(prefs: Prefs, accept_dns: bool) -> tuple[Difference, ...]:
    """Only for a node that is joined to our control server: elsewhere they are not ours to set."""
    return tuple(
        Difference(each.name, prefs.raw[each.name], each.value, each.reason)
        for each in required(accept_dns)
        if each.name in prefs.raw and prefs.raw[each.name] != each.value
    )


def exit_node_warning(prefs: Prefs) -> Finding | None:
    """tailscale/tailscale#18725: NoSNAT is for all routes or for none."""
    if prefs.raw.get("NoSNAT") is not True or not any(each in prefs.advertise for each in _EXIT_ROUTES):
        return None
    return Finding(
        "exit-node-without-snat",
        Refusal(
            Trouble.PREFERENCE,
            "this node is an exit node, and with NoSNAT true, as pods need it, tailscaled does not rewrite the source "
            "address of what its clients send to the internet",
            "masquerade on this node what leaves from tailnet addresses, or make another node the exit node",
        ),
    )


# --- what was there before


def remembered(record: MeshRecord, changes: Iterable[Difference], control_url: str) -> MeshRecord:
    """To be saved before `changes` are made; what was there before our first change stays what goes back."""
    prefs = dict(record.prefs)
    for each in changes:
        if each.name in _PUT_BACK:
            before = prefs[each.name].before if each.name in prefs else each.now
            prefs[each.name] = Changed(before, each.must)
    return replace(record, control_url=control_url, prefs=prefs) if prefs != record.prefs else record


def restorable(record: MeshRecord, prefs: Prefs) -> dict[str, Any]:
    """What uninstalling is to set; afterwards the record's `prefs` are to be forgotten."""
    if not record.written_for(prefs.control_url):
        return {}
    return {
        name: each.before
        for name, each in record.prefs.items()
        if name in prefs.raw and prefs.raw[name] == each.ours != each.before
    }


# --- who else pulls


@dataclass(frozen=True, slots=True)
class Verdict:
    repair: tuple[Difference, ...]
    fights: tuple[Refusal, ...]


class Tug:
    def __init__(self) -> None:
        self._ours: set[str] = set()  # set by us, and not seen otherwise since
        self._turned_back: dict[str, deque[float]] = {}

    def judge(self, found: Sequence[Difference], now: float) -> Verdict:
        for each in found:
            self._count(each.name, now)
        return Verdict(
            tuple(each for each in found if not self._fought_over(each.name)),
            tuple(_fight(each) for each in found if self._fought_over(each.name)),
        )

    def repaired(self, done: Iterable[Difference]) -> None:
        self._ours.update(each.name for each in done)

    def reset(self) -> None:
        """An operator says: try again."""
        self._turned_back.clear()

    def _count(self, name: str, now: float) -> None:
        times = self._turned_back.setdefault(name, deque(maxlen=FIGHT))
        if times and now - times[-1] >= PEACE:
            times.clear()
        if name in self._ours:
            self._ours.discard(name)
            times.append(now)

    def _fought_over(self, name: str) -> bool:
        times = self._turned_back[name]
        return len(times) == FIGHT and times[-1] - times[0] < PEACE


def _fight(over: Difference) -> Refusal:
    return Refusal(
        Trouble.PREFERENCE,
        f"{over.name} is {as_text(over.now)} and must be {as_text(over.must)}: somebody turned it back {FIGHT} times "
        f"within {PEACE / 60:.0f} minutes, so HeadCNI leaves it",
        f"{over.reason}; find the program or person that sets it, then run `headcni mesh repair`",
    )
