"""Which records are garbage: their pods are gone, and no DEL ever came. Decided purely.

There are three signs, from three who know nothing of each other: the kernel (is the network namespace there), the
runtime (was the attachment in the list of its last CNI GC), and the API (is the pod on this node and not finished).
Each says alive, gone, or nothing. A record is collected when at least two say gone, none says alive, and that was so
without a break for the grace time. Each alone can be wrong: a directory that is not mounted, a list made before the
pod, an API of another cluster, a static pod that never got its mirror. Rejected: a majority, by which two mistakes
would outvote a namespace in which packets flow.

A pod is the one of its UID: the next pod of a StatefulSet has the same name. A static pod is known to the runtime by
another UID than to the API; its mirror names both. Finished pods count as gone: their containers will not run again.

An ADD in progress is not judged, and a record that is made anew under the same key begins anew.

A list says nothing of what came after it. Record and list have only times of day, and those jump: after a clock was set
back, a new pod looks older than an old list. So the record must also have been seen before the list was, by a clock
that never jumps (`sighted`), and be older by a margin, for the runtime made its list some time before it sent it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from reconciler.kube.objects import Pod
from statemachine.attachment import Attachment, State

GRACE = 60.0  # seconds
FRESH = 300.0  # seconds for which a list of the runtime proves that something lives
MARGIN = 300.0  # seconds that a record is older than a list in which it is missed
ENDING = (State.TEARING_DOWN, State.TORN_DOWN)

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Signs:
    """True: alive. False: gone. None: it does not say."""

    namespace: bool | None = None
    runtime: bool | None = None
    api: bool | None = None

    @property
    def all_say_gone(self) -> bool:
        told = [each for each in (self.namespace, self.runtime, self.api) if each is not None]
        return len(told) >= 2 and not any(told)


@dataclass(frozen=True, slots=True)
class Suspicion:
    since: float  # seconds of a clock that never jumps
    created: float  # of the record: one that is made anew is another one


@dataclass(frozen=True, slots=True)
class Doomed:
    key: str
    cause: str  # for `Delete`


@dataclass(frozen=True, slots=True)
class RuntimeList:
    """The attachments of one network that were valid at a CNI GC."""

    at: float  # seconds since the epoch, as `Attachment.created`
    valid: frozenset[str]


def collectable(
    records: Mapping[str, Attachment],
    signs: Mapping[str, Signs],
    first_seen: Mapping[str, Suspicion],
    now: float,
    grace: float = GRACE,
) -> tuple[list[Doomed], dict[str, Suspicion]]:
    """What is to be deleted now, and what to ask with the next time."""
    doomed: list[Doomed] = []
    suspected: dict[str, Suspicion] = {}
    for key, record in records.items():
        sign = signs.get(key, Signs())
        if not record.answered or record.state in ENDING or not sign.all_say_gone:
            continue
        earlier = first_seen.get(key)
        same = earlier is not None and earlier.created == record.created
        suspicion = earlier if earlier is not None and same else Suspicion(now, record.created)
        suspected[key] = suspicion
        if now - suspicion.since >= grace:
            doomed.append(Doomed(key, _cause(sign, now - suspicion.since)))
    return doomed, suspected


def sighted(before: Mapping[S, float], there: Iterable[S], now: float) -> dict[S, float]:
    """When each of those that are there was seen for the first time."""
    return {each: before.get(each, now) for each in there}


def runtime_sign(record: Attachment, last: RuntimeList | None, now: float, seen_before: bool) -> bool | None:
    """`now` in seconds since the epoch; `seen_before`: the record, before the list. What is not in the list and was
    there before it is gone for ever."""
    if last is None:
        return None
    if record.key in last.valid:
        return True if abs(now - last.at) < FRESH else None
    return False if seen_before and record.created + MARGIN <= last.at else None


def api_sign(record: Attachment, pods: Iterable[Pod] | None) -> bool | None:
    """`pods`: all of this node, None while the list is not up to date. A pod without UID and name is nobody's."""
    if pods is None:
        return None
    uid, name = record.pod.uid, (record.pod.namespace, record.pod.name)
    if uid:
        same = [pod for pod in pods if uid in (pod.uid, pod.static_uid)]
    elif record.pod.name:
        same = [pod for pod in pods if (pod.namespace, pod.name) == name]
    else:
        return None
    return any(not pod.finished for pod in same)


def _cause(signs: Signs, lasted: float) -> str:
    who = {
        "its network namespace is gone": signs.namespace,
        "the runtime does not know it": signs.runtime,
        "the API has no such pod running on this node": signs.api,
    }
    told = " and ".join(what for what, sign in who.items() if sign is False)
    return f"garbage: {told}, for {lasted:.0f} s"
