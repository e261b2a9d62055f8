"""The order in which an API server is looked for, and what on a node leads to one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.kube.candidates import (
    KUBELETS,
    SERVICE_ACCOUNT,
    Candidate,
    Origin,
    Surroundings,
    candidates,
    is_service,
    kubeconfig_argument,
)
from reconciler.kube.surroundings import look
from tests.kube.clients import config

KUBEADM, K3S = KUBELETS[:2]
TOKEN, AUTHORITY = SERVICE_ACCOUNT / "token", SERVICE_ACCOUNT / "ca.crt"
POD = Surroundings(kubelets=(KUBEADM,), service_account=True, service_host="10.96.0.1", service_port="443")


def found(seen, **values):
    return candidates(config(**values), seen)


def test_nothing_is_looked_for_when_it_is_off():
    assert found(POD, kube_mode="off", kube_url="https://192.0.2.1:6443") == ()


def test_nothing_leads_anywhere():
    assert found(Surroundings()) == ()


def test_a_daemon_in_a_pod_tries_its_own_token_first_and_the_service_address_last():
    assert found(POD) == (
        Candidate(Origin.KUBELET, KUBEADM, token_file=TOKEN),
        Candidate(Origin.KUBELET, KUBEADM),
        Candidate(Origin.ENVIRONMENT, None, "https://10.96.0.1:443", AUTHORITY, TOKEN),
    )


def test_what_is_configured_comes_first():
    url, file = "https://192.0.2.1:6443", "/etc/headcni/kubeconfig"
    first = found(POD, **{"kube.url": url})[0]
    assert first == Candidate(Origin.URL, None, url, AUTHORITY, TOKEN)
    first = found(POD, **{"kube.kubeconfig": file})[0]
    assert first == Candidate(Origin.KUBECONFIG, Path(file))
    first = found(POD, **{"kube.kubeconfig": file, "kube.url": url})[0]
    assert first == Candidate(Origin.URL, Path(file), url)


def test_a_token_and_an_authority_of_the_configuration_count_instead_of_the_pod_s():
    given = {"kube.url": "https://192.0.2.1", "kube.tokenFile": "/t", "kube.caFile": "/c"}
    assert found(POD, **given)[0] == Candidate(Origin.URL, None, "https://192.0.2.1", Path("/c"), Path("/t"))
    assert found(POD, **{"kube.tokenFile": "/t"})[0] == Candidate(Origin.KUBELET, KUBEADM, token_file=Path("/t"))


def test_a_daemon_outside_of_a_pod_has_the_kubelets_alone():
    seen = Surroundings(kubelets=(KUBEADM, K3S))
    assert found(seen) == (Candidate(Origin.KUBELET, KUBEADM), Candidate(Origin.KUBELET, K3S))


def test_an_api_server_of_the_environment_that_is_no_service_leaves_the_service_address_for_the_end():
    seen = Surroundings(service_account=True, service_host="192.0.2.9")
    urls = [each.url for each in found(seen)]
    assert urls == ["https://192.0.2.9:443", "https://10.96.0.1:443"]


def test_each_address_family_has_a_service_address():
    urls = [
        each.url
        for each in found(Surroundings(service_account=True), **{"network.serviceCIDR": "10.43.0.0/16,fd00::/108"})
    ]
    assert urls == ["https://10.43.0.1:443", "https://[fd00::1]:443"]


@pytest.mark.parametrize(
    ("url", "is_one"),
    [
        ("https://10.96.0.1:443", True),
        ("https://[fd00::1]", True),
        ("https://192.0.2.1:6443", False),
        ("https://kubernetes.default.svc", False),
    ],
)
def test_a_service_address_is_known_by_its_range(url, is_one):
    assert is_service(url, config(**{"network.serviceCIDR": "10.96.0.0/16,fd00::/108"}).service_cidrs) is is_one


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (["/usr/bin/kubelet", "--kubeconfig=/a/b", "--v=2", ""], "/a/b"),
        (["kubelet", "--config", "/c", "--kubeconfig", "/a/b"], "/a/b"),
        (["/hyperkube", "kubelet", "--kubeconfig=/a/b"], "/a/b"),
        (["kubelet", "--config=/c"], None),
        (["kubelet", "--kubeconfig"], None),
        (["kubelet", "--kubeconfig="], None),
        (["grep", "-r", "kubelet", "--kubeconfig=/a/b"], None),
        (["/usr/bin/kube-proxy", "--kubeconfig=/a/b"], None),
        ([""], None),
    ],
)
def test_a_kubelet_tells_its_kubeconfig(command, file):
    assert kubeconfig_argument(command) == (Path(file) if file else None)


def test_the_node_is_looked_at_under_its_root(tmp_path):
    for file in (K3S, KUBEADM):
        (tmp_path / file.relative_to("/")).parent.mkdir(parents=True)
    (tmp_path / KUBEADM.relative_to("/")).mkdir()  # whatever it is: it will be told what is wrong with it
    (tmp_path / K3S.relative_to("/")).symlink_to("/nowhere")
    seen = look({"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, tmp_path)
    assert seen.kubelets == (KUBEADM, K3S)
    assert (seen.service_host, seen.service_port) == ("10.96.0.1", "")


class Node:
    """A host with processes, and with a kubeconfig in /own/kubelet.conf."""

    def __init__(self, root):
        self.root = root
        self.process("1", b"init\0")
        (root / "own").mkdir()
        self.file = root / "own" / "kubelet.conf"
        self.file.touch(0o600)

    def process(self, pid, command, pids="pid:[1]", uid=0):
        made = self.root / "proc" / pid
        (made / "ns").mkdir(parents=True)
        (made / "ns" / "pid").symlink_to(pids)
        (made / "cmdline").write_bytes(command)
        os.chown(made, uid, uid)

    def kubelets(self):
        return look({}, self.root).kubelets


KUBELET = b"kubelet\0--kubeconfig=/own/kubelet.conf\0"


@pytest.fixture
def node(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can make files that belong to others")
    return Node(tmp_path)


def test_a_kubelet_that_runs_tells_where_its_kubeconfig_is(node):
    node.process("12", KUBELET)
    node.process("13", b"sleep\x001\0")
    node.process("14", b"")
    (node.root / "proc" / "15").mkdir()  # it has ended
    assert node.kubelets() == (Path("/own/kubelet.conf"),)


@pytest.mark.parametrize("who", [{"uid": 65534}, {"pids": "pid:[2]"}], ids=["a user", "a container"])
def test_a_process_that_only_calls_itself_a_kubelet_is_not_believed(node, who):
    """Our token would go to whatever server it names, and root would run its exec plugin."""
    node.process("12", KUBELET, **who)
    assert node.kubelets() == ()


@pytest.mark.parametrize("place", ["own", "own/kubelet.conf"])
@pytest.mark.parametrize(
    "give", [lambda path: os.chown(path, 1, 0), lambda path: path.chmod(0o777)], ids=["of another", "open to all"]
)
def test_a_kubeconfig_that_others_may_write_is_not_believed(node, place, give):
    node.process("12", KUBELET)
    give(node.root / place)
    assert node.kubelets() == ()


def test_a_kubeconfig_behind_a_link_is_judged_where_it_is(node):
    node.process("12", KUBELET)
    (node.root / "tmp").mkdir(0o777)
    (node.root / "tmp").chmod(0o777)
    node.file.rename(node.root / "tmp" / "it")
    node.file.symlink_to("/tmp/it")
    assert node.kubelets() == ()
