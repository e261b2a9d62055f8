"""One leader at a time, by a Lease of coordination.k8s.io/v1, with the rules of Kubernetes' own programs.

Who has the Lease writes into it every two seconds; who has not written for ten stops at once whatever it was doing;
who sees no change for fifteen takes it. The five between are what the leader has for stopping.

No two clocks are compared. The times in a Lease are for people; a contender counts from when *it* saw the Lease
change, on a clock that does not jump and goes on while the machine sleeps. The leader counts its ten seconds from
before its last successful write was sent, so from a moment before anybody else could see that write. So two never
lead, however their clocks are set, if these run at the same speed, and unless somebody deletes the Lease. What
cannot be helped without fencing: a request that the leader had sent before it stopped may still be carried out.

Two who write at once: each write carries the version that was read, and the API server refuses the second. Whether a
Lease is missing is found out by making it, which fails if it is there.

On a stop the Lease is given back, after the work has ended, and the next one takes it at once. What is decided is here,
purely; `election.py` does it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reconciler.kube.objects import micro_timestamp
from reconciler.kube.ports import Object

DURATION, RENEW, RETRY = 15.0, 10.0, 2.0  # seconds


@dataclass(frozen=True, slots=True)
class Lease:
    """As it was read."""

    holder: str  # empty: given back
    seconds: float
    transitions: int
    acquired: str
    version: str  # resourceVersion: any change of it is a sign of life, whatever the times in it say


@dataclass(frozen=True, slots=True)
class Standing:
    """Of one contender. Times of its own clock."""

    me: str
    lease: Lease | None = None
    seen: float = float("-inf")  # when the lease was first seen as it is
    until: float = float("-inf")  # until then it leads

    def leads(self, now: float) -> bool:
        return now < self.until


def lease_from(raw: Object) -> Lease:
    spec, meta = raw.get("spec") or {}, raw.get("metadata") or {}
    seconds, transitions = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
    return Lease(
        holder=str(spec.get("holderIdentity") or ""),
        seconds=float(seconds) if isinstance(seconds, int) and seconds > 0 else DURATION,
        transitions=transitions if isinstance(transitions, int) else 0,
        acquired=str(spec.get("acquireTime") or ""),
        version=str(meta.get("resourceVersion") or ""),
    )


def saw(standing: Standing, lease: Lease, now: float) -> Standing:
    """The Lease was read. What another one holds is lost, however much time there seemed to be left."""
    known = standing.lease
    seen = standing.seen if known is not None and known.version == lease.version else now
    until = standing.until if lease.holder == standing.me else float("-inf")
    return Standing(standing.me, lease, seen, until)


def won(standing: Standing, lease: Lease, sent: float) -> Standing:
    """The Lease was written by us; `sent`: when the request began."""
    return Standing(standing.me, lease, sent, sent + RENEW)


def may_write(standing: Standing, now: float) -> bool:
    lease = standing.lease
    return lease is None or lease.holder in ("", standing.me) or now - standing.seen >= lease.seconds


def written(standing: Standing, name: str, wall: float) -> dict[str, Any]:
    """The Lease as we hold it. `wall` in seconds since the epoch."""
    lease, now = standing.lease, micro_timestamp(wall)
    ours = lease is not None and lease.holder == standing.me
    return _object(
        name,
        lease,
        holderIdentity=standing.me,
        leaseDurationSeconds=int(DURATION),
        acquireTime=lease.acquired if lease and ours else now,
        renewTime=now,
        leaseTransitions=0 if lease is None else lease.transitions + (not ours),
    )


def given_back(lease: Lease, name: str, wall: float) -> dict[str, Any]:
    """With a duration of a second: the API server wants one, and everybody takes what nobody holds."""
    now = micro_timestamp(wall)
    return _object(
        name,
        lease,
        holderIdentity="",
        leaseDurationSeconds=1,
        acquireTime=now,
        renewTime=now,
        leaseTransitions=lease.transitions,
    )


def _object(name: str, read: Lease | None, **spec: object) -> dict[str, Any]:
    meta = {"name": name, **({"resourceVersion": read.version} if read else {})}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}
