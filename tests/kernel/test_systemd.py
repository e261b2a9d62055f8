"""The systemd unit: systemd understands it, and the daemon can live within what it allows.

No systemd runs here, so each restriction is held against what the real daemon does: its capabilities are taken from it,
its system calls and what it opens are read from a trace of a life with pods.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from fixtures.processes import REPOSITORY, DaemonProcess
from fixtures.site import POD_CIDR, Site, wait_until

pytestmark = pytest.mark.kernel

UNIT = REPOSITORY / "deploy" / "systemd" / "headcni.service"
REQUIRED = os.environ.get("CI") == "true" or os.environ.get("HEADCNI_REQUIRE_KERNEL") == "1"


@pytest.fixture(scope="module")
def analyze():
    if shutil.which("systemd-analyze") is None:
        problem = "systemd-analyze is missing: apt-get install systemd"
        pytest.fail(problem, pytrace=False) if REQUIRED else pytest.skip(problem)

    def run(*arguments):
        return subprocess.run(("systemd-analyze", *arguments), capture_output=True, text=True, check=False)

    return run


def setting(name):
    (value,) = re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)
    return value.split()


def test_systemd_finds_nothing_wrong_with_it(analyze, tmp_path):
    """But that our command is not installed on this machine."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/usr/bin/headcni ", "/bin/true "))
    done = analyze("verify", str(unit))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    unit.write_text(unit.read_text().replace("RestartSec", "RestartSecs"))
    assert "RestartSecs" in analyze("verify", str(unit)).stderr, "it would not have found anything"


def test_its_exposure_does_not_grow(analyze, tmp_path):
    done = analyze("security", "--offline=true", "--threshold=35", str(UNIT))
    assert done.returncode == 0, done.stdout


def test_what_it_names_is_known(analyze):
    from reconciler.settings import SETTINGS

    named = re.findall(r"^#(\w+)=", (UNIT.parent / "headcni.default").read_text(), re.MULTILINE)
    assert len(named) > 4
    assert set(named) <= {each.env for each in SETTINGS} | {"HEADCNI_CONFIG"}


def site_within(wrapper, node, state_dir, *arguments, pod_cidr=POD_CIDR):
    site = Site(node, state_dir)
    site.daemon = DaemonProcess(node, state_dir, "--pod-cidr", pod_cidr, *arguments, wrapper=wrapper)
    return site


def live(site):
    """All that a daemon does, in small."""
    site.add()
    assert site.call("STATUS").code == 0
    assert site.call("CHECK", conf={"prevResult": site.add("other").json}, container="other").code == 0
    site.daemon.send(signal.SIGHUP)
    wait_until(lambda: site.log_lines("configuration reloaded"))
    site.delete()
    site.delete("other")
    site.wait_quiet()


def test_its_capabilities_are_enough(node, tmp_path):
    kept = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in setting("CapabilityBoundingSet"))
    wrapper = ("setpriv", "--no-new-privs", "--inh-caps=-all", f"--bounding-set=-all,{kept}")
    with site_within(wrapper, node, tmp_path / "state", *writing(tmp_path)) as site:
        status = Path(f"/proc/{site.daemon.pid}/status").read_text()
        assert int(re.search(r"CapEff:\s+(\w+)", status)[1], 16).bit_count() == len(setting("CapabilityBoundingSet"))
        live(site)
        wait_until((tmp_path / "net.d" / "10-headcni.conflist").exists)
        assert site.wrongs() == []


def writing(tmp_path):
    """Arguments of a daemon that writes its network configuration as well."""
    (tmp_path / "net.d").mkdir()
    plugin = f'{{"type": "headcni", "state_dir": "{tmp_path}/state", "ipam": {{"type": "headcni-ipam"}}}}'
    (tmp_path / "template").write_text(f'{{"cniVersion": "1.0.0", "name": "net", "plugins": [{plugin}]}}')
    return ("--conf-dir", str(tmp_path / "net.d"), "--conf-template", str(tmp_path / "template"))


@pytest.fixture(scope="module")
def trace(node, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("traced")
    wrapper = ("strace", "-D", "-f", "-qq", "-y", "-e", "signal=none", "-o", str(tmp_path / "trace"))
    with site_within(wrapper, node, tmp_path / "state", *writing(tmp_path)) as site:
        live(site)
        wait_until((tmp_path / "net.d" / "10-headcni.conflist").exists)
        assert site.daemon.stop(20) == 0
    return (tmp_path / "trace").read_text()


def calls(trace, name):
    return re.findall(rf"^\d+ +{name}\((.*)", trace, re.MULTILINE)


def allowed(analyze, names):
    """The system calls of a filter, its groups resolved."""
    for name in names:
        if not name.startswith("@"):
            yield name
            continue
        lines = analyze("syscall-filter", name).stdout.splitlines()[1:]
        yield from allowed(
            analyze, [line.strip() for line in lines if not line.strip().startswith("#") and line.strip()]
        )


def test_its_system_calls_are_allowed(analyze, trace):
    made = set(re.findall(r"^\d+ +([a-z0-9_]+)\(", trace, re.MULTILINE))
    assert {"setns", "sendto", "fsync", "rename", "execve"} <= made
    assert made - set(allowed(analyze, setting("SystemCallFilter"))) == set()


def test_its_sockets_are_allowed(trace):
    families = {call.partition(",")[0] for call in calls(trace, "socket")}
    assert "AF_NETLINK" in families
    assert families <= set(setting("RestrictAddressFamilies"))


def test_its_namespaces_are_allowed(trace):
    assert setting("RestrictNamespaces") == ["net"]
    assert {re.search(r">, (\w+)", call)[1] for call in calls(trace, "setns")} == {"CLONE_NEWNET"}
    assert [call for call in calls(trace, r"(?:unshare|clone3?)") if "CLONE_NEW" in call] == []


def test_no_memory_is_writable_and_executable(trace):
    assert setting("MemoryDenyWriteExecute") == ["yes"]
    maps = calls(trace, r"(?:mmap|mprotect|pkey_mprotect)")
    assert len(maps) > 100
    assert [call for call in maps if "PROT_WRITE|PROT_EXEC" in call] == []


def test_it_writes_where_it_may(trace):
    opened = [
        call for call in calls(trace, "openat") if re.search(r"O_WRONLY|O_RDWR|O_CREAT", call) and "= -1" not in call
    ]
    written = {re.search(r'"([^"]*)"', call)[1] for call in opened}
    may = re.compile(r".*/(state|net\.d)/|/proc/sys/net/|/dev/null$|.*\.pyc\b|.*\.log$")
    assert len(written) > 10
    assert [path for path in written if not may.match(path)] == []


# --- the daemon and its manager


@pytest.fixture
def manager(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(20)
        yield listening


def hear(manager, wanted):
    """What comes until then."""
    heard = []
    while not heard or not heard[-1].startswith(wanted):
        heard.append(manager.recv(4096).decode())
    return heard


def test_a_manager_hears_ready_the_beat_a_reload_and_the_end(node, tmp_path, manager):
    wrapper = ("env", f"NOTIFY_SOCKET={tmp_path}/notify", "WATCHDOG_USEC=1000000")
    with site_within(wrapper, node, tmp_path / "state") as site:
        until_ready = hear(manager, "READY=1")
        assert until_ready[-1] == "READY=1\nSTATUS=ready"
        hear(manager, "WATCHDOG=1")
        site.daemon.send(signal.SIGHUP)
        assert hear(manager, "RELOADING=1")[-1].startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert hear(manager, "READY=1")[-1] == "READY=1"
        site.daemon.send(signal.SIGTERM)
        hear(manager, "STOPPING=1")
        assert site.daemon.process.wait(10) == 0


def test_a_daemon_whose_node_is_not_ready_says_why_and_beats(node, tmp_path, manager):
    """Its pod CIDR holds the node's own address."""
    wrapper = ("env", f"NOTIFY_SOCKET={tmp_path}/notify", "WATCHDOG_USEC=400000")
    site = site_within(wrapper, node, tmp_path / "state", pod_cidr="192.168.77.0/24")
    site.daemon.start()
    try:
        heard = [*hear(manager, "STATUS=not ready: "), *hear(manager, "WATCHDOG=1"), *hear(manager, "WATCHDOG=1")]
        assert not [each for each in heard if each.startswith("READY=1")]
    finally:
        site.daemon.kill()


@pytest.mark.expects_errors
def test_a_reload_that_is_refused_ends_as_well(node, tmp_path, manager):
    config = tmp_path / "config.yaml"
    config.write_text("logLevel: info\n")
    wrapper = ("env", f"NOTIFY_SOCKET={tmp_path}/notify")
    with site_within(wrapper, node, tmp_path / "state", "--config", str(config)) as site:
        hear(manager, "READY=1")
        config.write_text("logLevel: loud\n")
        site.daemon.send(signal.SIGHUP)
        hear(manager, "RELOADING=1")
        assert hear(manager, "READY=1")[-1] == "READY=1"
