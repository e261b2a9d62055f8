"""Who a record's pod is, where the runtime did not say: CNI_ARGS may lack the UID, or everything.

Found by the UID, else by the name, else by the address that the kubelet reported. A pod of that name with another
address is the next one of a StatefulSet. An address tells only while it is unique among pods with a network of their
own: a finished pod keeps its addresses in its status, and two pods of one address are no answer.
"""

from __future__ import annotations

from collections.abc import Iterable

from reconciler.kube import objects
from statemachine.attachment import Attachment, Pod


def pod_of(record: Attachment, pods: Iterable[objects.Pod]) -> objects.Pod | None:
    """With its labels."""
    known, own = record.pod, {each.ip for each in record.addresses}
    if known.uid:
        return _only(pod for pod in pods if known.uid in (pod.uid, pod.static_uid))
    if known.name:
        named = (pod for pod in pods if (pod.namespace, pod.name) == (known.namespace, known.name))
        return _only(pod for pod in named if not pod.addresses or own & set(pod.addresses))
    running = (pod for pod in pods if not pod.finished and not pod.host_network)
    return _only(pod for pod in running if own & set(pod.addresses))


def completed(record: Attachment, pods: Iterable[objects.Pod]) -> Pod | None:
    """What the record should say of its pod; None: it says all that is known."""
    if record.pod.uid and record.pod.name:
        return None
    found = pod_of(record, pods)
    if found is None:
        return None
    fresh = Pod(found.namespace, found.name, record.pod.uid or found.static_uid or found.uid)
    return fresh if fresh != record.pod else None


def _only(found: Iterable[objects.Pod]) -> objects.Pod | None:
    candidates = list(found)
    return candidates[0] if len(candidates) == 1 else None
