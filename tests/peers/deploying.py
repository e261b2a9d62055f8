"""`deploy/deploy-with-helm.sh` as a user runs it, with the real Helm and kubectl, against a real API server.

Nodes are objects. kubectl is what the machine has. Programs that a test wants otherwise stand first in PATH.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

from kubelets import Kubelets

from fixtures.kube.server import of
from fixtures.peers import find
from reconciler.kube.node import MESH, UP

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "deploy-with-helm.sh"
MERGE, STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"
LEAVE = ["uninstall", "--tailscale-socket=/host/var/run/tailscale/tailscaled.sock"]
"""What runs on each node in the end."""


@contextlib.contextmanager
def two_nodes(server, pod_cidr):
    """As a kubelet makes them; with their number in the pod CIDR."""
    for number, name in enumerate(("a", "b"), 1):
        server.add_node(name, pod_cidr.format(number), labels={"kubernetes.io/os": "linux"})
        told(server, name, addresses=[{"type": "InternalIP", "address": f"192.0.2.1{number}"}], nodeInfo=info())
    try:
        yield
    finally:
        for name in ("a", "b"):
            server.call("DELETE", f"/api/v1/nodes/{name}")


@contextlib.contextmanager
def with_daemons(server, namespace, folder):
    """DaemonSets and Jobs become pods, which run; what daemons would tell of their nodes is told by the test."""
    flags = ("--leader-elect=false", "--secure-port=0", "--controllers=daemonset-controller,job-controller")
    command = (find("kubernetes-server", "kube-controller-manager"), *flags)
    account = f"--kubeconfig={server.kubeconfig('controllers', of(server.admin))}"
    with (folder / "controllers.out").open("wb") as log:
        controllers = subprocess.Popen((*command, account), stdout=log, stderr=log)
    try:
        with Kubelets(server, namespace, folder) as kubelets:
            yield kubelets
        for pod in server.call("GET", kubelets.pods)["items"]:
            server.call("DELETE", f"{kubelets.pods}/{pod['metadata']['name']}?gracePeriodSeconds=0")
    finally:
        controllers.kill()
        controllers.wait()


def info(kernel="6.1.0-13-amd64", system="linux"):
    empty = ("architecture", "bootID", "containerRuntimeVersion", "kubeletVersion", "kubeProxyVersion", "machineID")
    return {**dict.fromkeys((*empty, "osImage", "systemUUID"), ""), "kernelVersion": kernel, "operatingSystem": system}


def told(server, node, **status):
    server.call("PATCH", f"/api/v1/nodes/{node}/status", {"status": status}, STRATEGIC)


def up(server, node, mesh="in force"):
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}
    network = {"type": "NetworkUnavailable", "status": "False", "reason": UP, "message": ""}
    told(server, node, conditions=[ready, network])
    server.call("PATCH", f"/api/v1/nodes/{node}", {"metadata": {"annotations": {MESH: mesh}}}, MERGE)


class Script:
    def __init__(self, server, tmp_path):
        self.folder = tmp_path
        self.bin = tmp_path / "bin"
        self.bin.mkdir()
        (self.bin / "helm").symlink_to(find("helm"))
        homes = {f"HELM_{each}_HOME": str(tmp_path / each) for each in ("CACHE", "CONFIG", "DATA")}
        self.environment = {
            **homes,
            "KUBECONFIG": str(server.kubeconfig("admin", of(server.admin))),
            "HOME": str(tmp_path),
            "TMPDIR": str(tmp_path / "temporary"),
            "PATH": f"{self.bin}:{os.environ['PATH']}",
        }
        (tmp_path / "temporary").mkdir()

    def run(self, *arguments, given="", **environment):
        with self.started(*arguments, **environment) as process:
            out, err = process.communicate(given, timeout=100)
        assert list((self.folder / "temporary").iterdir()) == [], "a file with the key may be among them"
        return process.returncode, out, err

    @contextlib.contextmanager
    def started(self, *arguments, **environment):
        """With all that it starts it is one group, which ends here at the latest."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command, whole = ("bash", str(SCRIPT), *arguments), {**self.environment, **environment}
        with subprocess.Popen(command, env=whole, cwd=self.folder, start_new_session=True, **pipes) as process:
            try:
                yield process
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def says(self, code, *arguments, **options):
        """Both outputs, when it ends so."""
        ended, out, err = self.run(*arguments, **options)
        assert ended == code, out + err
        return out + err

    def helm(self, *arguments):
        return subprocess.run(
            (find("helm"), *arguments), env=self.environment, capture_output=True, text=True, timeout=60
        ).stdout

    def replace(self, name, text):
        """A program that stands before the real one, which it knows as $REAL."""
        real = os.path.realpath(shutil.which(name, path=self.environment["PATH"]))
        (self.bin / name).unlink(missing_ok=True)
        (self.bin / name).write_text(f"#!/bin/bash\nREAL={real}\n{text}\n")
        (self.bin / name).chmod(0o755)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for release in json.loads(self.helm("list", "--all", "--all-namespaces", "-o", "json")):
            where = (release["name"], "-n", release["namespace"])
            self.helm("uninstall", *where, "--no-hooks", "--cascade", "background")


def in_cluster(server):
    """All that an installation could have made; pods go with their owners, where a garbage collector runs."""
    paths = (
        *("/api/v1/secrets", "/api/v1/configmaps", "/api/v1/serviceaccounts", "/api/v1/namespaces"),
        *("/apis/apps/v1/daemonsets", "/apis/apps/v1/deployments"),
        *(f"/apis/rbac.authorization.k8s.io/v1/{each}" for each in ("clusterroles", "clusterrolebindings", "roles")),
    )
    return {(path, each["metadata"]["name"]) for path in paths for each in server.call("GET", path)["items"]}
