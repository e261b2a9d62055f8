"""A kubelet and a containerd in a box, without an API server: pods are files that appear and disappear.

The kubelet is asked through its read-only port, pods are looked into by containerd's own client. Snapshots are copied
(`native`), because that works on whatever file system the machine has, and our image is two megabytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

from box import NODE_IP, Box, eventually

from fixtures.cluster import image
from fixtures.peers import find

SOCKET = "/run/containerd/containerd.sock"
CONTAINERD_CONFIG = f"""
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image.NAME}"
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "native"
"""
KUBELET_CONFIG = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "staticPodPath": "/etc/kubernetes/manifests",
    "containerRuntimeEndpoint": f"unix://{SOCKET}",
    "authentication": {"webhook": {"enabled": False}, "anonymous": {"enabled": True}},
    "authorization": {"mode": "AlwaysAllow"},
    "address": "127.0.0.1",
    "readOnlyPort": 10255,
    "cgroupDriver": "cgroupfs",
    "cgroupsPerQOS": False,
    "enforceNodeAllocatable": [],
    "failSwapOn": False,
    "failCgroupV1": False,
    "evictionHard": {"memory.available": "0%", "nodefs.available": "0%"},
}
WATCHED_TABLES = [(family, table) for family in ("ip", "ip6") for table in ("mangle", "nat", "filter")]
"""By every kubelet, in a goroutine of its own: the rules come after its first answer."""


class KubeNode:
    def __init__(self, box: Box, containerd: str) -> None:
        self.box = box
        self._containerd = find(containerd).parent
        self._ctr = [self._containerd / "ctr", "-a", SOCKET, "-n", "k8s.io"]

    def start(self) -> None:
        """Everything but the network: `/etc/cni/net.d` and `/opt/cni/bin` are the caller's."""
        work = self.box.work
        (work / "containerd.toml").write_text(CONTAINERD_CONFIG)
        (work / "kubelet.json").write_text(json.dumps(KUBELET_CONFIG))
        image.write(work / "image.tar", find("busybox"))
        path = f"{self._containerd}:{find('runc').parent}:/usr/sbin:/usr/bin:/sbin:/bin"
        self.box.start(
            "containerd", self._containerd / "containerd", "-c", work / "containerd.toml", environment={"PATH": path}
        )
        eventually(lambda: self.box.run(*self._ctr, "version", check=False).returncode == 0, "containerd to answer")
        self.box.run(*self._ctr, "images", "import", "--no-unpack", work / "image.tar")
        self.box.start(
            "kubelet", find("kubelet"), "--config", work / "kubelet.json", "--hostname-override", "box",
            "--node-ip", NODE_IP,
        )  # fmt: skip
        eventually(lambda: self.pods() is not None, "the kubelet to answer", told=self.tail)
        eventually(self._has_its_rules, "the kubelet's own rules", 90, self.tail)

    def _has_its_rules(self) -> bool:
        """The last of them are a canary in each table that it watches; it tries again only after a minute."""
        return self.box.run("nft", "list", "chains").stdout.count("chain KUBE-KUBELET-CANARY") == len(WATCHED_TABLES)

    def create(self, *names: str) -> None:
        for name in names:
            being_written = self.box.work / f"{name}.json"
            being_written.write_text(json.dumps(_pod(name, str(uuid4()))))
            being_written.rename(self._manifest(name))

    def delete(self, *names: str) -> None:
        for name in names:
            self._manifest(name).unlink()

    def delete_all(self) -> None:
        for manifest in self.box.inside("/etc/kubernetes/manifests").iterdir():
            manifest.unlink()

    def _manifest(self, name: str) -> Path:
        return self.box.inside("/etc/kubernetes/manifests") / f"{name}.json"

    def pods(self) -> dict[str, dict[str, Any]] | None:
        """What the kubelet says of each pod, by the name it has in its manifest."""
        asked = self.box.run(find("busybox"), "wget", "-q", "-O", "-", "http://127.0.0.1:10255/pods", check=False)
        if asked.returncode:
            return None
        items = json.loads(asked.stdout)["items"] or []
        return {pod["metadata"]["name"].removesuffix("-box"): pod for pod in items}

    def running(self) -> dict[str, str]:
        """The address of each pod whose container runs."""
        return {
            name: pod["status"]["podIP"]
            for name, pod in (self.pods() or {}).items()
            if pod["status"].get("podIP") and all("running" in c["state"] for c in _containers(pod))
        }

    def await_running(self, *names: str, timeout: float = 60) -> dict[str, str]:
        found: dict[str, str] = {}

        def run() -> bool:
            nonlocal found
            found = self.running()
            return set(names) <= set(found)

        eventually(run, f"{names} to run", timeout, self.tail)
        return found

    def ping(self, name: str, address: str) -> bool:
        pod = (self.pods() or {})[name]
        container = _containers(pod)[0]["containerID"].removeprefix("containerd://")
        command = ["tasks", "exec", "--exec-id", "ping", container, "/bin/ping", "-c", "1", "-W", "2", address]
        return self.box.run(*self._ctr, *command, check=False).returncode == 0

    def sandboxes(self) -> list[str]:
        return self.box.run("ls", "/run/netns").stdout.split()

    def restarts(self, name: str) -> int:
        return sum(c["restartCount"] for c in _containers((self.pods() or {})[name]))

    def waits_for_network(self, name: str) -> bool:
        """So the kubelet says: then it does not call the runtime."""
        lines = self.box.log("kubelet").read_text(errors="replace").splitlines()
        return any("network is not ready" in line and f'pod="default/{name}-box"' in line for line in lines)

    def tail(self) -> str:
        """What the kubelet complained of last."""
        return "\n".join(self.box.log("kubelet").read_text(errors="replace").splitlines()[-15:])


def _containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pod["status"].get("containerStatuses") or [{"state": {}}]
    return found


def _pod(name: str, uid: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": uid},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "enableServiceLinks": False,
            "automountServiceAccountToken": False,
            "containers": [
                {
                    "name": "main",
                    "image": image.NAME,
                    "imagePullPolicy": "Never",
                    "command": ["/bin/sh", "-c", "trap exit TERM; sleep 1000000 & wait"],
                }
            ],
        },
    }
