import os
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures import lab as lab_module
from fixtures.lab import NETNS_DIR, Lab, LabUnavailable, require_tools

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def lab():
    with Lab(2) as running:
        yield running


@pytest.fixture
def node(lab):
    return lab.nodes[0]


def leftovers(prefix):
    return [path.name for path in NETNS_DIR.glob(f"{prefix}*")]


def test_nodes_reach_each_other(lab):
    first, second = lab.nodes
    assert first.ping(second.address)
    assert second.ping(first.address6)
    assert not first.ping("192.168.77.200", timeout=1)


def test_a_pod_namespace_is_empty_until_it_is_deleted(node):
    pod = node.new_pod_netns()
    assert "eth0" not in pod.run("ip", "link")
    node.delete_netns(pod)
    assert not os.path.exists(pod.path)


def test_popen_gives_the_id_of_the_process_itself(node):
    process = node.popen("sleep", "60")
    process.kill()
    assert process.wait() == -9


def test_entering_changes_the_namespace_of_this_thread_and_back(node):
    before = os.stat("/proc/thread-self/ns/net").st_ino
    with pytest.raises(ZeroDivisionError), node.entered():  # noqa: PT012
        assert os.stat("/proc/thread-self/ns/net").st_ino == os.stat(node.path).st_ino
        raise ZeroDivisionError
    assert os.stat("/proc/thread-self/ns/net").st_ino == before


def test_two_looks_at_the_same_are_the_same(node):
    before = node.snapshot()
    node.ping("127.0.0.1")
    assert before.difference(node.snapshot()) == ()


@pytest.mark.parametrize(
    ("change", "undo", "section"),
    [
        ("ip link add x0 type bridge", "ip link del x0", "links"),
        ("ip addr add 10.1.2.3/32 dev lo", "ip addr del 10.1.2.3/32 dev lo", "addresses"),
        (
            "ip route add 10.1.2.0/24 dev lo table 77",
            "ip route del 10.1.2.0/24 dev lo table 77",
            "routes",
        ),
        ("ip -6 rule add from fd01::/64 table 77", "ip -6 rule del from fd01::/64 table 77", "rules"),
        ("nft add table inet foreign", "nft delete table inet foreign", "nft"),
        ("sysctl -w net.ipv4.conf.eth0.rp_filter=2", "sysctl -w net.ipv4.conf.eth0.rp_filter=0", "sysctls"),
        (
            "ip neigh add 192.168.77.99 lladdr 02:00:00:00:00:01 dev eth0 nud permanent",
            "ip neigh del 192.168.77.99 dev eth0",
            "neighbours",
        ),
    ],
)
def test_a_snapshot_sees(node, change, undo, section):
    node.run("sysctl", "-w", "net.ipv4.conf.eth0.rp_filter=0")
    before = node.snapshot()
    node.run(*change.split())
    assert any(line.startswith(f"+ {section}:") for line in before.difference(node.snapshot()))
    node.run(*undo.split())
    assert before.difference(node.snapshot()) == ()


def test_everything_is_cleaned_up_after_an_exception():
    with pytest.raises(ZeroDivisionError), Lab(1) as short:  # noqa: PT012
        short.nodes[0].new_pod_netns()
        process = short.nodes[0].popen("sleep", "60")
        raise ZeroDivisionError
    assert process.returncode == -9
    assert leftovers(short.prefix) == []


def test_what_a_killed_lab_left_is_removed_by_the_next():
    gone = subprocess.Popen(("true",))
    gone.wait()
    left = f"hclab{gone.pid}.1-node1"
    subprocess.run(("ip", "netns", "add", left), check=True)
    with Lab(0):
        assert leftovers(left) == []


def test_a_missing_tool_is_named_with_its_package(monkeypatch):
    monkeypatch.setattr(lab_module.shutil, "which", lambda tool: None if tool == "nft" else tool)
    with pytest.raises(LabUnavailable, match="missing: nft; install with: apt-get install nftables"):
        require_tools()


PROGRAM = """
import os, sys
from fixtures.lab import Lab, enter_user_namespace_if_needed
enter_user_namespace_if_needed()
with Lab(2) as lab:
    pod = lab.nodes[0].new_pod_netns()
    with lab.nodes[0].entered():
        pass
    lab.nodes[0].snapshot()
    print(os.geteuid(), lab.nodes[0].ping(lab.nodes[1].address), pod.run("ip", "-o", "link", "show", "lo")[:6])
"""


NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def as_ordinary_user() -> tuple[str, ...]:
    """Python without root; ours may lie where only root can go, then the system's must do.

    Asked through a shell: setpriv itself still has root's capabilities when it looks for the file.
    """
    if os.geteuid() != 0:
        return (sys.executable,)
    for python in (sys.executable, "/usr/bin/python3"):
        probe = (*NOBODY, "sh", "-c", f"exec {python} -c 'import tomllib'")
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return (*NOBODY, python)
    pytest.skip("no Python >= 3.11 that an ordinary user may execute")


def test_an_ordinary_user_gets_a_lab_in_a_user_namespace():
    command = (*as_ordinary_user(), "-B", "-c", PROGRAM)
    root = Path(lab_module.__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert done.stdout.split() == ["0", "True", "1:", "lo:"], done.stderr
