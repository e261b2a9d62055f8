"""Events: what somebody must see who asks Kubernetes, not this node. Each at most once per cause and hour.

They are written as core/v1, the form the kubelet uses: `kubectl describe` and `kubectl get events` of every version
show them with their times. events.k8s.io/v1 is meant for series of the same event, of which there are none here, and
demands an action and a controller that would only repeat the reason.

What is worth an event lasts, so it is said again and again by whoever calls; `Limiter` lets it pass once an hour. An
event's name is made of what it says and of the hour, so a daemon that is restarted says the same under the same name,
and the API server refuses the second. Events are the least that can be lost: a failure is tried again after a rest, a
missing permission is warned of once and tried with the next hour.

An event about a Node has no namespace of its own and goes to `default`, as the kubelet's do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.kube.enrich import pod_of
from reconciler.kube.objects import Node, Pod, timestamp
from statemachine.attachment import Attachment

HOUR = 3600.0
MOST = 1000  # remembered at a time
STUBBORN = 3  # attempts after which somebody should look
LONGEST_MESSAGE = 1024
LONGEST_NAME = 200  # of the subject, in the event's name


@dataclass(frozen=True, slots=True)
class Subject:
    kind: str
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Notice:
    subject: Subject
    reason: str  # one word, for machines
    cause: str  # with another cause it is another event, whatever the message
    message: str
    warning: bool = True


def of_node(node: Node) -> Subject:
    return Subject("Node", "", node.name, node.uid)


def of_pod(pod: Pod) -> Subject:
    return Subject("Pod", pod.namespace, pod.name, pod.uid)


class Limiter:
    """`now`: seconds of a clock that never jumps."""

    def __init__(self) -> None:
        self._said: dict[tuple[Subject, str, str], float] = {}

    def due(self, notice: Notice, now: float) -> bool:
        last = self._said.get(_key(notice))
        return last is None or now - last >= HOUR

    def said(self, notice: Notice, now: float) -> None:
        self._said.pop(_key(notice), None)  # the oldest stays the first
        self._said[_key(notice)] = now
        for key, at in list(self._said.items()):
            if now - at < HOUR and len(self._said) <= MOST:
                break
            del self._said[key]


def _key(notice: Notice) -> tuple[Subject, str, str]:
    return notice.subject, notice.reason, notice.cause


def path_of(notice: Notice) -> str:
    return f"/api/v1/namespaces/{_namespace(notice)}/events"


def body_of(notice: Notice, host: str, now: float) -> dict[str, Any]:
    """`now` in seconds since the epoch."""
    said = f"{notice.subject} {notice.reason} {notice.cause} {host} {int(now // HOUR)}"
    digest = hashlib.sha256(said.encode()).hexdigest()[:16]
    about = notice.subject
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{about.name[:LONGEST_NAME]}.{digest}", "namespace": _namespace(notice)},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": about.kind,
            "name": about.name,
            "uid": about.uid,
            **({"namespace": about.namespace} if about.namespace else {}),
        },
        "type": "Warning" if notice.warning else "Normal",
        "reason": notice.reason,
        "message": notice.message[:LONGEST_MESSAGE],
        "source": {"component": "headcni", "host": host},
        "firstTimestamp": timestamp(now),
        "lastTimestamp": timestamp(now),
        "count": 1,
    }


def _namespace(notice: Notice) -> str:
    return notice.subject.namespace or "default"


# --- what is worth one


def of_mesh(node: Node, mesh: Mapping[str, Any], lasts: Callable[[str], bool]) -> Iterator[Notice]:
    """A mesh comes into being, and is mended, within seconds: only what lasts is told."""
    for cause, message in troubles_of(mesh).items():
        if lasts(cause):
            yield Notice(of_node(node), "HeadCNIMeshNotInForce", cause, message)


def troubles_of(mesh: Mapping[str, Any]) -> dict[str, str]:
    """Messages by their cause, which is name and code. `mesh` as in `status.json`. What cannot be told yet has no code.
    Of a node that is no member only the cause is told: that nothing of it is announced follows from that."""
    missing = mesh.get("missing", {})
    if missing and not mesh.get("member") and mesh.get("findings"):
        missing = {"this node": mesh["findings"][0]}
    return {
        f"{name} {trouble['code']}": f"{name} is not in force in the mesh: {trouble['what']}; {trouble['cure']}"
        for name, trouble in missing.items()
        if trouble["code"]
    }


def of_records(records: Iterable[Attachment], pods: Iterable[Pod], already: Iterable[int]) -> Iterator[Notice]:
    """Pods that wait for something for long. What the Node's own events tell (`already`) is not said for each pod."""
    known, told = tuple(pods), set(already)
    for record in records:
        problem = record.problem
        if problem is None or not record.answered or problem.attempt < STUBBORN or problem.code in told:
            continue
        pod = pod_of(record, known)
        if pod is not None:
            why = "; ".join(filter(None, (problem.msg, problem.details)))
            message = f"{problem.step} failed {problem.attempt} times: {why}"
            yield Notice(of_pod(pod), "HeadCNIStuck", f"{problem.step} {problem.code}", message)
