"""`headcni doctor --online` against a real API server: each way that fails, and what it does not grant."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys

import pytest

from fixtures.kube.pki import Authority
from fixtures.kube.server import KubeServer
from fixtures.processes import REPOSITORY
from reconciler.kube.codes import Trouble


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with KubeServer(tmp_path_factory.mktemp("kube")) as made:
        made.add_node("worker")
        made.grant("reader", ["get", "list", "watch"], ["nodes"])
        yield made


@pytest.fixture
def kubernetes(server, tmp_path):
    """What the theme says, dialled with these credentials, the only ones on this host."""

    def ask(pair, **kubeconfig):
        inline = {
            "client-certificate-data": base64.b64encode(pair.certificate.read_bytes()).decode(),
            "client-key-data": base64.b64encode(pair.key.read_bytes()).decode(),
        }
        host = tmp_path / "host"
        host.mkdir()
        shutil.copy(server.kubeconfig("doctor.conf", inline, **kubeconfig), tmp_path / "it.conf")
        variables = {
            "HEADCNI_STATE_DIR": str(tmp_path),
            "HEADCNI_HOST_ROOT": str(host),
            "HEADCNI_KUBECONFIG": str(tmp_path / "it.conf"),
            "NODE_NAME": "worker",
        }
        done = subprocess.run(
            (sys.executable, "-m", "reconciler.operate.cli", "doctor", "--online", "-o", "json"),
            env={**os.environ, **variables}, cwd=REPOSITORY, capture_output=True, text=True, timeout=50, check=False,
        )  # fmt: skip
        assert done.stderr == ""
        said = json.loads(done.stdout)
        found = [each for each in said["complaints"] if each["theme"] == "Kubernetes"]
        return said["looked_at"]["Kubernetes"], [(each["level"], each["code"], each["what"]) for each in found]

    return ask


def test_with_all_that_it_needs(server, kubernetes):
    saw, told = kubernetes(server.admin)
    assert server.url in saw
    assert told == []


def test_what_is_not_granted(server, kubernetes):
    saw, told = kubernetes(server.user("reader"))
    assert server.url in saw
    assert {(level, code) for level, code, _ in told} == {("error", Trouble.API_FORBIDDEN)}
    assert any("patch nodes" in what for _, _, what in told)
    assert any("list, watch pods" in what for _, _, what in told)


def test_a_way_that_leads_nowhere(server, kubernetes, tmp_path):
    other = Authority(tmp_path / "pki", "other")
    saw, told = kubernetes(server.admin, authority=other.certificate)
    assert "none of" in saw
    assert told[0][:2] == ("error", Trouble.API_TLS_AUTHORITY)
