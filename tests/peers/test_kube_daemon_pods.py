"""What the daemon as a process makes of what a real API server says: pod CIDR, names, garbage; and its events."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kubecluster import Cluster
from kubesite import DOWN, KUBELET, SOON, UP, KubeSite

from fixtures.lab import Netns
from fixtures.processes import PLUGIN, REPOSITORY
from fixtures.site import wait_until

pytest_plugins = ("kube_shared",)
pytestmark = pytest.mark.peers

GRACE = 4.0  # seconds; really it is a minute
HASTY = f"""
import sys
from functools import partial
from reconciler.kube import garbage, side
from reconciler.operate.cli import main
garbage.collectable, side.SWEEP = partial(garbage.collectable, grace={GRACE}), 1.0
sys.exit(main(sys.argv[sys.argv.index("daemon"):]))
"""
UNWILLING = """#!/bin/sh
[ $CNI_COMMAND = ADD ] && exec echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.50.0.9/24"}]}'
[ $CNI_COMMAND = DEL ] && echo '{"code": 111, "msg": "not today"}' && exit 1
exit 0
"""


# --- pod CIDR


@pytest.fixture
def guessing(worker_files: Path) -> None:
    """Nothing but the cluster's CIDR is known."""
    (worker_files / KUBELET).unlink()
    shutil.copytree(REPOSITORY / "fixtures" / "nodefiles" / "kubeadm-1.31", worker_files, dirs_exist_ok=True)


@contextmanager
def pinging(pod: Netns, address: str) -> Iterator[None]:
    """The whole time; not one may be lost."""
    process = pod.popen("ping", "-n", "-i", "0.2", address, stdout=subprocess.PIPE)
    yield
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=5)[0].decode()
    assert " 0% packet loss" in said, said


@pytest.mark.usefixtures("guessing")
def test_a_guess_gives_way_to_the_api_though_the_daemon_dies_in_the_middle(
    kube: Cluster, busy_worker: KubeSite
) -> None:
    worker = busy_worker
    (guess,) = worker.daemon.status()["pod_cidrs"]
    assert worker.daemon.status()["pod_cidr_source"]["guess"]
    assert kube.annotations(worker.name)["pod-cidr"] == guess
    given = next(cidr for cidr in ("10.217.7.0/24", "10.217.8.0/24") if cidr != guess)
    addresses = {name: worker.add(name).address for name in ("old-1", "old-2")}

    def changes(wanted: dict[str, Any] | None) -> None:
        worker.soon(lambda: worker.daemon.status()["pod_cidr_source"]["change"] == wanted, f"{wanted} is told")

    with pinging(worker.pod("old-1"), addresses["old-2"]):
        kube.change_node(worker.name, podCIDR=given, podCIDRs=[given])
        remembered = worker.state_dir / "podcidr.json"
        wait_until(lambda: given in remembered.read_text(), SOON)
        with worker.killed():
            assert kube.annotations(worker.name)["pod-cidr"] == guess
        changes({"before": [guess], "pods": 2})
        worker.soon(lambda: kube.annotations(worker.name)["pod-cidr"] == given, "pod CIDR is annotated")
        assert worker.add("new").address.startswith(given.removesuffix("0/24"))
        for name, address in addresses.items():
            assert worker.records()[f"{name}@eth0"].addresses[0].address == f"{address}/32"
            assert worker.pod("new").ping(address)
            assert worker.pod(name).ping(kube.server.address)  # from there only the node's own address is known
    assert f"from {guess}; pods that still have it: 2" in worker.command("podcidr")
    assert any(f"the pod CIDR was {guess} and is now {given}" in each for each in worker.daemon.status()["warnings"])
    assert worker.daemon.status()["pod_cidrs"] == [given]

    worker.delete("old-1")
    changes({"before": [guess], "pods": 1})
    worker.delete("old-2")
    changes(None)
    assert worker.log_lines("no pod has an address of the former any more")
    assert worker.daemon.status()["warnings"] == []
    worker.restart()
    assert worker.daemon.status()["pod_cidrs"] == [given]


# --- records


@pytest.fixture
def hasty(worker: KubeSite) -> KubeSite:
    """Its daemon collects garbage after a short time."""
    worker.wrap(sys.executable, "-c", HASTY)
    worker.run_daemon()
    worker.soon_tells(UP)
    return worker


def test_records_get_the_names_of_their_pods(kube: Cluster, hasty: KubeSite) -> None:
    address = hasty.add("nameless").address
    hasty.add("named", args="K8S_POD_NAMESPACE=default;K8S_POD_NAME=named")
    uids = {"nameless": kube.add_pod("nameless", hasty.name, address), "named": kube.add_pod("named", hasty.name)}

    def pods() -> dict[str, str]:
        return {record.pod.name: record.pod.uid for record in hasty.records().values()}

    hasty.soon(lambda: pods() == uids, "names are complete")
    for name in uids:
        kube.delete_pod(name)
    hasty.remove_all()


def test_only_what_two_signs_say_is_garbage(kube: Cluster, hasty: KubeSite, tmp_path: Path) -> None:
    """The names say what is gone of each. Of `ipam-…` only the address is ours, and no audit ever collects it."""
    program = tmp_path / "headcni-ipam"
    program.symlink_to(PLUGIN[-1])
    ipam = {"command": (*PLUGIN[:-1], str(program)), "conf": {"type": "bridge", "bridge": "br0"}}
    pods: dict[str, dict[str, Any]] = {"both": {}, "pod": {}, "ipam-both": ipam, "ipam-pod": ipam, "ipam-netns": ipam}
    for name, more in pods.items():
        uid = kube.add_pod(name, hasty.name)
        hasty.add(name, args=f"K8S_POD_NAMESPACE=default;K8S_POD_NAME={name};K8S_POD_UID={uid}", **more)
    for name in ("ipam-netns", "both", "ipam-both"):
        hasty.remove_pod(name)
    for name in ("pod", "ipam-pod", "both", "ipam-both"):
        kube.delete_pod(name)

    def collects(*gone: str) -> None:
        left = {f"{name}@eth0" for name in pods} - {f"{name}@eth0" for name in gone}
        hasty.soon(lambda: hasty.records().keys() == left, f"{gone} are collected", GRACE + 2 * SOON)
        lines = hasty.log_lines("its network namespace is gone and the API has no such pod running on this node")
        assert {line.partition("key=")[2].partition("@")[0] for line in lines} == set(gone)
        assert len(hasty.log_lines("garbage:")) == len(lines)

    collects("both", "ipam-both")
    kube.delete_pod("ipam-netns")
    collects("both", "ipam-both", "ipam-netns")
    for name in ("pod", "ipam-pod"):
        hasty.delete(name, **pods[name])


# --- events


def distinct(events: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """Each is there once; or twice, where a full hour came in between."""
    said = [(each["type"], each["reason"], each["message"]) for each in events]
    hours = {each["firstTimestamp"][:13] for each in events}
    assert len(said) == len(set(said)) or len(hours) > 1, said
    return set(said)


def test_a_pool_that_is_empty_now_and_then_is_one_event(kube: Cluster, worker: KubeSite, worker_files: Path) -> None:
    (worker_files / KUBELET).write_text("podCIDR: 10.244.1.0/29")
    worker.run_daemon()
    worker.soon_tells(UP)
    for number in range(4):
        worker.add(f"box{number}")
    for again in range(3):
        worker.add("last")
        if again:
            worker.restart()
            assert worker.call("ADD", "sixth").code != 0
        worker.soon_tells(DOWN)
        worker.soon_told_all()
        worker.delete("last")
        worker.soon_tells(UP)
    warnings = {each for each in distinct(kube.events(worker.name)) if each[0] == "Warning"}
    cure = "delete pods, or give the node a larger subnet; `headcni pods` shows who holds what"
    what = f"pods cannot be served: pool 10.244.1.0/29 is empty ({cure})"
    assert warnings == {("Warning", "HeadCNIIsNotReady", what)}


def test_a_pod_that_is_stuck_has_an_event(kube: Cluster, worker: KubeSite, tmp_path: Path) -> None:
    worker.run_daemon()
    uid = kube.add_pod("stuck", worker.name)
    delegate = tmp_path / "host-local"
    delegate.write_text(UNWILLING)
    delegate.chmod(0o755)
    more = {"conf": {"ipam": {"type": "host-local"}}, "env": {"CNI_PATH": str(tmp_path)}}
    worker.add("stuck", args=f"K8S_POD_NAMESPACE=default;K8S_POD_NAME=stuck;K8S_POD_UID={uid}", **more)
    worker.delete("stuck", **more)
    worker.soon(lambda: kube.events("stuck"), "the pod has an event", 2 * SOON)
    ((kind, reason, message),) = distinct(kube.events("stuck"))
    assert (kind, reason) == ("Warning", "HeadCNIStuck")
    assert re.fullmatch(r"tear down failed \d+ times: not today", message)
    delegate.write_text("#!/bin/sh")
    wait_until(lambda: not worker.records(), 20, worker.daemon.log_tail)
    assert len(distinct(kube.events("stuck"))) == 1
    kube.delete_pod("stuck")
