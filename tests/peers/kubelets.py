"""Kubelets and a scheduler in one thread, for an API server that has none: pods are bound, start, end, and go.

A container is not run, but for the script of the chart's hooks: that one is, as its pod would run it, with the
credentials of its account. What `headcni uninstall` says on a node is told beforehand, by `refusing`.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from fixtures.kube.server import KubeServer, ServerError

STRATEGIC = "application/strategic-merge-patch+json"
Pod = dict[str, Any]


def leaves(pod: Pod) -> bool:
    return any(each["args"][:1] == ["uninstall"] for each in pod["spec"].get("initContainers", []))


class Kubelets:
    def __init__(self, server: KubeServer, namespace: str, folder: Path) -> None:
        self.server = server
        self.pods = f"/api/v1/namespaces/{namespace}/pods"
        self.configmaps = f"/api/v1/namespaces/{namespace}/configmaps"
        self.folder = folder
        self.refusing: dict[str, str] = {}
        self.together: list[str] = []  # nodes on which a daemon was still there when the other pod came
        self.commands: list[list[str]] = []  # of pods that left
        self.said = ""  # by the script
        self._tries: dict[str, int] = {}
        self._scripts: dict[str, subprocess.Popen[str]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="kubelets")

    def __enter__(self) -> Kubelets:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for script in self._scripts.values():
            script.kill()
            script.communicate()

    def _work(self) -> None:
        while not self._stop.wait(0.1):
            pods = self.server.call("GET", self.pods)["items"]
            for pod in pods:
                try:
                    self._attend(pod, pods)
                except ServerError as error:
                    if error.status not in (404, 409):  # it has changed since
                        raise

    def _attend(self, pod: Pod, pods: list[Pod]) -> None:
        meta, spec = pod["metadata"], pod["spec"]
        if "deletionTimestamp" in meta:
            self.server.call("DELETE", f"{self.pods}/{meta['name']}?gracePeriodSeconds=0")
        elif "nodeName" not in spec:
            self._bind(pod)
        elif leaves(pod):
            self._leave(pod, pods)
        elif meta["labels"]["app.kubernetes.io/component"] == "hooks":
            self._run(pod)
        elif pod["status"]["phase"] == "Pending":
            ended = {"name": "install", "image": "", "imageID": "", "ready": True, "restartCount": 0}
            statuses = [ended | {"state": {"terminated": {"exitCode": 0}}}]
            ready = [{"type": "Ready", "status": "True"}]
            self._tell(pod, {"phase": "Running", "conditions": ready, "initContainerStatuses": statuses})

    def _bind(self, pod: Pod) -> None:
        affinity = pod["spec"].get("affinity", {}).get("nodeAffinity")
        target = "a"
        if affinity:  # the DaemonSet controller names a pod's node so
            terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
            target = terms[0]["matchFields"][0]["values"][0]
        name = pod["metadata"]["name"]
        binding = {"metadata": {"name": name}, "target": {"kind": "Node", "name": target}}
        self.server.call("POST", f"{self.pods}/{name}/binding", binding)

    def _leave(self, pod: Pod, pods: list[Pod]) -> None:
        node = pod["spec"]["nodeName"]
        if pod["metadata"]["name"] not in self._tries:
            others = [each for each in pods if each["spec"].get("nodeName") == node]
            daemons = [each for each in others if each["metadata"]["labels"]["app.kubernetes.io/component"] == "daemon"]
            self.together += [node] if len(daemons) > 1 else []
            self.commands.append(pod["spec"]["initContainers"][0]["args"])
        tries = self._tries[pod["metadata"]["name"]] = self._tries.get(pod["metadata"]["name"], 0) + 1
        ended = {"exitCode": 1, "message": self.refusing[node]} if node in self.refusing else {"exitCode": 0}
        state: dict[str, Any] = {"terminated": ended}
        if ended["exitCode"]:
            state = {"waiting": {"reason": "CrashLoopBackOff"}}
        status = {"name": "install", "image": "", "imageID": "", "ready": False, "restartCount": tries, "state": state}
        self._tell(pod, {"initContainerStatuses": [status | {"lastState": {"terminated": ended}}]})

    def _run(self, pod: Pod) -> None:
        uid = pod["metadata"]["uid"]
        if uid not in self._scripts:
            self._scripts[uid] = self._start(pod)
        elif (code := self._scripts[uid].poll()) is not None and pod["status"]["phase"] == "Pending":
            self.said = "".join(self._scripts[uid].communicate())
            self._tell(pod, {"phase": "Failed" if code else "Succeeded"})

    def _start(self, pod: Pod) -> subprocess.Popen[str]:
        folder = self.folder / pod["metadata"]["uid"]
        folder.mkdir(exist_ok=True)
        (source,) = [each["configMap"]["name"] for each in pod["spec"]["volumes"] if "configMap" in each]
        for file, content in self.server.call("GET", f"{self.configmaps}/{source}")["data"].items():
            (folder / file).write_text(content)
        (folder / "token").write_text(self.server.token(pod["spec"]["serviceAccountName"]))
        (folder / "ca.crt").write_bytes(self.server.authority.certificate.read_bytes())
        interpreter, *arguments = pod["spec"]["containers"][0]["command"]
        assert interpreter == "python3"
        command = [sys.executable, *(each.replace("/script/", f"{folder}/") for each in arguments)]
        command += [f"--url={self.server.url}", f"--account={folder}"]
        return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def _tell(self, pod: Pod, status: Pod) -> None:
        self.server.call("PATCH", f"{self.pods}/{pod['metadata']['name']}/status", {"status": status}, STRATEGIC)
