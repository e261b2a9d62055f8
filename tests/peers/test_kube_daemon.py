"""The daemon as a process beside a real API server that comes late, changes its certificates, takes rights away, dies
and comes back: the Node and the status are right soon after each change, and no pod's ADD or DEL fails or waits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from kubecluster import RETRY, Cluster
from kubesite import DOWN, KUBELET, OWN, SOON, UP, KubeSite, until
from traffic import busy

from fixtures.kube.pki import Authority
from fixtures.kube.server import of
from reconciler.kube.codes import Trouble

pytest_plugins = ("kube_shared",)
pytestmark = [pytest.mark.peers, pytest.mark.timeout(240)]

LOOKED = 15.0  # seconds after which the daemon has looked at its surroundings; it does so every ten


def test_a_worker_with_files_only_dials_nobody_before_it_is_ready(
    kube: Cluster, worker: KubeSite, tmp_path: Path
) -> None:
    """Though it knows of an API server, and then tries it."""
    trace = tmp_path / "trace"
    worker.wrap("strace", "-D", "-f", "-qq", "-o", str(trace), "-s", "100", "-e", "trace=%network,write")
    with kube.no_way():
        assert worker.node.run("ip", "route", "show") == ""
        worker.run_daemon()
        assert worker.daemon.status()["pod_cidr_source"]["source"] == "files"
        worker.soon_names(Trouble.API_UNREACHABLE, "no route")
        worker.add()
    worker.soon_tells(UP)
    worker.delete()
    lines = trace.read_text().splitlines()
    ready = next(at for at, line in enumerate(lines) if r"\"ready\": true" in line)
    dialled = next(at for at, line in enumerate(lines) if "sa_family=AF_INET" in line)
    assert dialled > ready, lines[dialled]


def test_an_api_that_comes_late_is_told_all(kube: Cluster, worker: KubeSite) -> None:
    with ExitStack() as traffic:
        with kube.dead():
            worker.run_daemon()
            traffic.enter_context(busy(worker))
            worker.soon_names(Trouble.API_UNREACHABLE, "connection refused")
        worker.soon_tells(UP)
        worker.soon_untaints()
        told = kube.annotations(worker.name)
        assert (told["pod-cidr"], told["mesh"]) == (OWN, "none")
        assert told["version"] == worker.daemon.status()["version"]
        worker.soon_works()


def test_a_new_certificate_of_the_same_authority_is_no_trouble(kube: Cluster, busy_worker: KubeSite) -> None:
    server = kube.server
    server.rotate(server.authority.issue("renewed", "kube-apiserver", names=server.names))
    with kube.dead():  # so that every connection begins anew
        busy_worker.soon_names(Trouble.API_UNREACHABLE, "connection refused")
    busy_worker.soon_works()
    assert not busy_worker.log_lines(f"code={Trouble.API_TLS_AUTHORITY:d}")


@contextmanager
def another_authority(kube: Cluster) -> Iterator[Path]:
    """That of the API server's certificate."""
    server = kube.server
    former = server.authority.issue("former", "kube-apiserver", names=server.names)
    fresh = Authority(server.work_dir / "fresh", "new-authority")
    server.rotate(fresh.issue("apiserver", "kube-apiserver", names=server.names))
    kube.restart()
    try:
        yield fresh.certificate
    finally:
        server.rotate(former)
        kube.credentials()


def test_a_new_authority_is_named_until_the_kubeconfig_has_it(kube: Cluster, busy_worker: KubeSite) -> None:
    worker, pid = busy_worker, busy_worker.daemon.pid
    with another_authority(kube) as certificate:
        worker.soon_names(Trouble.API_TLS_AUTHORITY, "its certificate is signed by new-authority, and expected was")
        trouble = worker.kube["trouble"]
        assert "certificate-authority-data of cluster lab in" in trouble["what"]
        assert trouble["what"].endswith("(kubernetes)")
        assert trouble["cure"].startswith("put the right authority into certificate-authority-data")
        kube.credentials(authority=certificate)
        worker.soon_works()
    assert worker.daemon.pid == pid


def test_credentials_that_expired_are_named_and_new_ones_used(kube: Cluster, busy_worker: KubeSite) -> None:
    server, user = kube.server, "somebody"
    server.grant(user, ["*"], ["*"])
    kube.credentials(of(server.user(user, ends=-0.5)))
    certificate = f"the certificate of {user}", "the client certificate is valid from"
    busy_worker.soon_needs(Trouble.API_CREDENTIALS, *certificate)
    server.user(user)  # in the same files
    busy_worker.soon_untaints()
    kube.credentials()
    server.revoke(user)
    busy_worker.soon_works()


def test_rights_that_are_lost_are_named_and_used_again_once_given_back(kube: Cluster, busy_worker: KubeSite) -> None:
    kube.revoke()
    try:
        busy_worker.soon_needs(Trouble.API_FORBIDDEN, f"this account may not get Node {busy_worker.name}")
        rule = '{apiGroups: [""], resources: ["nodes"], verbs: ["get"]}'
        assert busy_worker.kube["trouble"]["cure"].endswith(rule)
    finally:
        kube.grant()
    busy_worker.soon_untaints()
    busy_worker.soon_works()


def test_a_network_that_was_silent_hides_nothing_afterwards(
    kube: Cluster, worker: KubeSite, worker_files: Path
) -> None:
    """Over a connection on which something waits to be sent again, nothing comes, and nobody is told."""
    (worker_files / KUBELET).write_text("podCIDR: 10.244.1.0/29")
    worker.run_daemon()
    worker.soon_tells(UP)
    with kube.silence():
        began = time.monotonic()
        kube.take_annotation(worker.name)
        for number in range(5):
            worker.add(f"box{number}")  # until there is something to tell: no address is left
        worker.soon_names(Trouble.API_UNREACHABLE, kube.server.address, within=4 * SOON)
        worker.delete("box0")
        until(lambda: worker.daemon.status()["ready"], SOON, worker.daemon.log_tail)  # nothing but the watch helps now
        time.sleep(max(0.0, began + RETRY + 1 - time.monotonic()))  # the next try comes after twice that time
    worker.soon_annotates(within=2 * SOON)  # it may just be dialling in vain


@contextmanager
def overlapped(worker: KubeSite) -> Iterator[None]:
    """By an address of pods on another interface. The daemon cannot mend that, and is not ready, but serves pods."""
    worker.node.run("ip", "link", "add", "intruder", "type", "bridge")
    try:
        worker.node.run("ip", "address", "add", "10.244.1.250/32", "dev", "intruder")
        until(lambda: not worker.daemon.status()["ready"], LOOKED, worker.daemon.log_tail)
        yield
    finally:
        worker.node.run("ip", "link", "delete", "intruder")


def test_a_minute_without_api_in_which_the_node_fails_and_the_daemon_dies(kube: Cluster, busy_worker: KubeSite) -> None:
    worker = busy_worker
    with ExitStack() as trouble:
        with kube.dead():
            back = time.monotonic() + 60
            worker.soon_names(Trouble.API_UNREACHABLE, "connection refused")
            trouble.enter_context(overlapped(worker))
            worker.restart()
            worker.soon_names(Trouble.API_UNREACHABLE, "connection refused", within=2 * SOON)
            time.sleep(max(0.0, back - time.monotonic()))
        worker.soon_tells(DOWN)
    until(lambda: worker.daemon.status()["ready"], LOOKED, worker.daemon.log_tail)
    worker.soon_tells(UP)
    worker.soon_works()
