"""docs/install/kubeadm.md and k3s.md, followed word for word, on the cluster of deploying.py.

What needs a machine of its own is left out: kubeadm, k3s, apt, and what runs in a daemon's pod. There is no API server
of k3s, whose version tells that it is one, so Helm is told. docs/install/bare.md is followed in test_bundle.py.
"""

from __future__ import annotations

import json
import re
import subprocess

import pytest
from deploying import LEAVE, ROOT, Script, in_cluster, two_nodes, up, with_daemons

from fixtures.kube.server import KubeServer

pytestmark = [pytest.mark.peers, pytest.mark.timeout(200)]

NAMESPACE = "kube-system"
FOLLOWED = re.compile(r"(?:KUBECONFIG=\S+ )?((?:deploy/deploy-with-helm\.sh|helm|kubectl get) .*)")
ADDRESSES = {"podSubnet": "10.244.0.0/16", "serviceSubnet": "10.96.0.0/16"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with KubeServer(tmp_path_factory.mktemp("install-pages")) as started:
        # here the hooks' account is in another namespace (KubeServer.token), where the chart's roles do not hold
        started.grant("system:serviceaccount:default:headcni-hooks", ["*"], ["*"], "*")
        yield started


@pytest.fixture
def script(server, tmp_path):
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    (tmp_path / "auth-key").write_text("AUTH-KEY-7f3a\n")
    with Script(server, tmp_path) as made:
        yield made


def commands(name):
    blocks = re.findall(
        r"^( *)```\w*\n(.*?)^\1```", (ROOT / "docs/install" / name).read_text(), re.MULTILINE | re.DOTALL
    )
    lines = [line.strip() for _, block in blocks for line in block.splitlines()]
    return [found[1] for found in map(FOLLOWED.fullmatch, lines) if found]


def follow(script, command):
    done = subprocess.run(
        ("bash", "-c", command), env=script.environment, cwd=script.folder, capture_output=True, text=True, timeout=100
    )
    return done.returncode, done.stdout + done.stderr


def test_on_kubeadm_they_lead_to_nodes_that_are_ready_and_back(server, script, tmp_path):
    told = {"ClusterConfiguration": json.dumps({"networking": ADDRESSES})}
    body = {"metadata": {"name": "kubeadm-config"}, "data": told}
    server.call("POST", f"/api/v1/namespaces/{NAMESPACE}/configmaps", body)
    install, nodes, test, uninstall = commands("kubeadm.md")
    with two_nodes(server, "10.244.{}.0/24"), with_daemons(server, NAMESPACE, tmp_path) as kubelets:
        up(server, "a")
        up(server, "b")
        server.token("headcni-hooks")
        before = in_cluster(server)
        code, said = follow(script, install)
        assert (code, "pods 10.244.0.0/16, Services 10.96.0.0/16" in said) == (0, True), said
        assert re.findall(r"^([ab]) +Ready ", follow(script, nodes)[1], re.MULTILINE) == ["a", "b"]
        code, said = follow(script, test)
        assert (code, "Succeeded" in said) == (0, True), said + kubelets.said
        code, said = follow(script, uninstall)
        assert (code, kubelets.commands) == (0, [LEAVE] * 2), said
        assert in_cluster(server) == before
    server.call("DELETE", f"/api/v1/namespaces/{NAMESPACE}/configmaps/kubeadm-config")


@pytest.mark.parametrize("usual", [True, False], ids=["usual ranges", "other ranges"])
def test_on_k3s_each_range_has_its_command_and_the_other_is_refused(server, script, tmp_path, usual):
    script.replace("helm", '[[ $1 != upgrade ]] || set -- "$@" --set distribution=k3s; exec "$REAL" "$@"')
    install, other_ranges, portmap = commands("k3s.md")
    well, refused = (install, other_ranges) if usual else (other_ranges, install)
    with two_nodes(server, "10.42.{}.0/24" if usual else "10.52.{}.0/24"), with_daemons(server, NAMESPACE, tmp_path):
        up(server, "a")
        up(server, "b")
        code, said = follow(script, refused)
        assert (code, "the node a has the pod CIDR" in said) == (1, True), said
        code, said = follow(script, well)
        assert code == 0, said
        code, said = follow(script, portmap)
        assert code == 0, said
        conflist = server.call("GET", f"/api/v1/namespaces/{NAMESPACE}/configmaps/headcni")["data"]
        assert "portmap" in json.dumps(conflist)
