"""What was last seen of this node's Node and pods, and whether that is still so."""

from __future__ import annotations

from cni.spec import Refusal
from reconciler.kube.codes import Trouble
from reconciler.kube.objects import Node, Pod
from reconciler.kube.ports import Seen, What

NOT_READ = Refusal(Trouble.API_UNREACHABLE, "Kubernetes was not reached yet", "pods do not wait for it")


class View:
    def __init__(self, name: str) -> None:
        self._name = name
        self.node: Node | None = None
        self._pods: dict[str, Pod] = {}
        self._node_trouble: Refusal | None = NOT_READ
        self._pods_trouble: Refusal | None = NOT_READ

    @property
    def trouble(self) -> Refusal | None:
        """Why this is not, or not any more, what Kubernetes knows."""
        return self._node_trouble or self._pods_trouble

    @property
    def known_pods(self) -> tuple[Pod, ...]:
        return tuple(self._pods.values())

    @property
    def pods(self) -> tuple[Pod, ...] | None:
        """None: not up to date, so that nothing may be concluded from a pod that is missing."""
        return None if self._pods_trouble else self.known_pods

    @property
    def alive(self) -> frozenset[str]:
        """UIDs under which a runtime may know a pod that is alive; none, where that is not up to date."""
        running = [pod for pod in self.pods or () if not pod.finished]
        return frozenset(uid for pod in running for uid in (pod.uid, pod.static_uid) if uid)

    def take_node(self, seen: Seen | Refusal) -> None:
        if isinstance(seen, Refusal):
            self._node_trouble = seen
            return
        found: list[Node] = [node for node in seen.objects if node.name == self._name]
        if seen.what is What.LISTED:
            self.node = None
        if found:  # nothing is found where a watch only says that it is up to date again
            self.node = found[-1] if seen.what is not What.DELETED else None
        self._node_trouble = None if self.node else _unknown(self._name)

    def take_pods(self, seen: Seen | Refusal) -> None:
        self._pods_trouble = seen if isinstance(seen, Refusal) else None
        if isinstance(seen, Refusal):
            return
        found: dict[str, Pod] = {pod.uid or str(pod): pod for pod in seen.objects}
        if seen.what is What.LISTED:
            self._pods = found
        elif seen.what is What.CHANGED:
            self._pods |= found
        else:
            for uid in found:
                self._pods.pop(uid, None)


def _unknown(name: str) -> Refusal:
    cure = "wait until the kubelet has registered it; or give this daemon the name that `kubectl get nodes` shows"
    return Refusal(Trouble.NODE_UNKNOWN, f"Kubernetes has no Node {name!r}", cure)
