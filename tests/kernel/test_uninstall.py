"""`headcni uninstall`: what a node holds afterwards is what it held before the daemon's first start."""

import os
import subprocess
import sys

import pytest

from fixtures import tunnel
from fixtures.lab import Lab
from fixtures.processes import REPOSITORY, DaemonProcess, PluginCall
from fixtures.site import wait_until
from reconciler.node.host import Host
from reconciler.node.wish import HostWish

pytestmark = pytest.mark.kernel

CIDR = "10.244.1.0/24"
HEADCNI = (sys.executable, "-m", "reconciler.operate.cli")


@pytest.fixture
def node():
    with Lab(1) as lab:
        yield lab.nodes[0]


@pytest.fixture
def state_dir(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def before(node):
    return node.snapshot()


@pytest.fixture
def daemon(node, state_dir, before):
    arguments = ("--pod-cidr", CIDR, "--static-route", "10.244.2.0/24=192.168.77.99")
    with DaemonProcess(node, state_dir, *arguments) as running:
        running.wait_ready()
        yield running


@pytest.fixture
def pod(node, state_dir, daemon):
    netns = node.new_pod_netns()
    assert call(node, state_dir, "ADD", netns.path).code == 0
    return netns


def call(node, state_dir, verb, netns=""):
    ipam = {"type": "headcni-ipam", "subnet": CIDR}
    conf = {"cniVersion": "1.0.0", "name": "n", "type": "headcni", "state_dir": str(state_dir), "ipam": ipam}
    return PluginCall(node, conf, verb, "box1", netns, args="K8S_POD_NAMESPACE=default;K8S_POD_NAME=web").call()


def uninstall(node, state_dir, *arguments, path=None):
    command = node.command(*HEADCNI, "uninstall", "--state-dir", str(state_dir), *arguments)
    env = {**os.environ, "PATH": path} if path else None
    return subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False)


def test_the_node_is_as_it_was_and_the_history_is_kept(node, state_dir, before, daemon, pod):
    assert before.difference(node.snapshot()) != ()
    assert call(node, state_dir, "DEL", pod.path).code == 0
    assert daemon.stop() == 0
    done = uninstall(node, state_dir)
    assert (done.returncode, done.stderr) == (0, "")
    assert before.difference(node.snapshot()) == ()
    assert len(list((state_dir / "history").iterdir())) == 1


def test_what_kept_pod_packets_in_the_mesh_goes_with_the_rest(node, state_dir, before, daemon):
    daemon.stop()
    own = tunnel.pod_cidrs(1)
    with node.entered():
        Host(state_dir).prepare(HostWish(own, fence=tunnel.CLUSTER, guard=own, gateways=tunnel.gateways(1)))
    done = uninstall(node, state_dir)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("dev lo") == 2
    assert [line.split()[0] for line in done.stdout.splitlines()[-5:-1]] == ["rule", "rule", "route", "route"]
    assert before.difference(node.snapshot()) == ()


def test_a_living_daemon_is_a_refusal_that_changes_nothing(node, state_dir, daemon):
    running = node.snapshot()
    done = uninstall(node, state_dir, "--purge")
    assert done.returncode == 1
    assert f"pid {daemon.pid}" in done.stderr
    assert running.difference(node.snapshot()) == ()


def test_pods_that_still_have_a_network_are_a_refusal_that_names_them(node, state_dir, daemon, pod):
    daemon.stop()
    running = node.snapshot()
    done = uninstall(node, state_dir)
    assert done.returncode == 1
    assert "1 pods still have their network from HeadCNI: default/web" in done.stderr
    assert running.difference(node.snapshot()) == ()


def test_purge_cuts_off_the_pods_and_deletes_the_state_directory(node, state_dir, before, daemon, pod):
    daemon.stop()
    done = uninstall(node, state_dir, "--purge")
    assert (done.returncode, done.stderr) == (0, "")
    assert before.difference(node.snapshot()) == ()
    assert "eth0" not in pod.run("ip", "link")
    assert not state_dir.exists()


def test_purge_leaves_the_files_of_others(node, state_dir, daemon):
    daemon.stop()
    (state_dir / "notes.txt").write_text("mine")
    done = uninstall(node, state_dir, "--purge")
    assert "notes.txt" in done.stdout
    assert [each.name for each in state_dir.iterdir()] == ["notes.txt"]


def test_what_a_killed_uninstall_began_is_finished_by_the_next(node, state_dir, before, daemon, pod):
    daemon.stop()
    killed = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=rmdir:signal=KILL:when=1")
    command = (*killed, *HEADCNI, "uninstall", "--state-dir", str(state_dir), "--purge")
    subprocess.run(node.command(*command), cwd=REPOSITORY, capture_output=True, check=False)
    assert state_dir.exists()
    assert uninstall(node, state_dir, "--purge").returncode == 0
    assert before.difference(node.snapshot()) == ()
    assert not state_dir.exists()


def test_a_node_without_headcni_has_nothing_to_uninstall(node, state_dir, before):
    done = uninstall(node, state_dir)
    assert (done.returncode, done.stdout) == (0, "nothing of HeadCNI's was on this node\n")
    assert before.difference(node.snapshot()) == ()


@pytest.mark.parametrize("spelling", ["link", "link/.", "link/../state"])
def test_another_spelling_of_the_directory_is_the_same_instance(node, state_dir, before, daemon, pod, spelling):
    daemon.stop()
    (state_dir.parent / "link").symlink_to(state_dir)
    done = uninstall(node, state_dir.parent / spelling, "--purge")
    assert (done.returncode, done.stderr) == (0, "")
    assert before.difference(node.snapshot()) == ()
    assert not state_dir.exists()


def test_a_relative_directory_is_the_same_instance(node, state_dir, before, daemon, pod):
    daemon.stop()
    done = uninstall(node, os.path.relpath(state_dir, REPOSITORY), "--purge")
    assert (done.returncode, done.stderr) == (0, "")
    assert before.difference(node.snapshot()) == ()


def test_a_daemon_restarted_by_a_link_keeps_the_pods_links(node, state_dir, daemon, pod):
    daemon.stop()
    links = node.run("ip", "-br", "link")
    (state_dir.parent / "link").symlink_to(state_dir)
    with DaemonProcess(node, state_dir.parent / "link", "--pod-cidr", CIDR) as again:
        again.wait_ready()
        assert node.run("ip", "-br", "link") == links
        assert call(node, state_dir, "DEL", pod.path).code == 0
        wait_until(lambda: "hc" not in node.run("ip", "-br", "link"))


def test_what_could_not_be_put_back_is_said_and_is_done_by_the_next_run(node, state_dir, before, daemon, tmp_path):
    daemon.stop()
    broken = tmp_path / "bin"
    broken.mkdir()
    (broken / "nft").write_text("#!/bin/sh\necho 'Error: no' >&2\nexit 1\n")
    (broken / "nft").chmod(0o755)
    done = uninstall(node, state_dir, "--purge", path=f"{broken}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert "not all could be put back" in done.stderr
    assert "nft refused: Error: no" in done.stderr
    assert "static route 10.244.2.0/24 via 192.168.77.99: del" in done.stdout
    assert state_dir.exists()
    assert uninstall(node, state_dir, "--purge").returncode == 0
    assert before.difference(node.snapshot()) == ()
    assert not state_dir.exists()
