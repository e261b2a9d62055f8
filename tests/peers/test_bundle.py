"""The bundle on a host that has nothing: a directory with one busybox, and the real kernel.

The host's files are a directory, entered with chroot; what a kernel has of a host (network, /proc) is a node of a lab.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from containers import made_layers

from deploy.bundle import build
from deploy.image.contents import TRIPLETS, project
from deploy.image.interpreter import own_arch
from deploy.image.layers import Layers
from fixtures import processes, tree
from fixtures.lab import Lab, Node
from fixtures.peers import find
from fixtures.processes import REPOSITORY, Answer, DaemonProcess, PluginCall
from fixtures.site import POD_CIDR, wait_until
from reconciler.operate.cli import build_parser

pytestmark = [pytest.mark.peers, pytest.mark.timeout(200)]

VERSION = project()["version"]
PREFIX = f"/opt/headcni-{VERSION}"
NODES = "nodes: [{name: worker-1, podCIDRs: [10.244.1.0/24], tailnet: {address: 100.64.0.3}}]"
STATE = "/var/lib/headcni"
CHROOT = shutil.which("chroot") or "/usr/sbin/chroot"  # by its path: what it starts gets no environment
FOLDERS = (
    *("bin", "dev", "etc/cni/net.d", "etc/default", "etc/systemd/system", "opt/cni/bin", "proc", "run/netns", "tmp"),
    *("usr", "var/lib"),
)


@pytest.fixture(scope="module")
def made() -> Layers:
    return made_layers()


@pytest.fixture(scope="module")
def archive(made: Layers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("bundle") / "bundle.tar.gz"
    file.write_bytes(build.bundle(made, own_arch()))
    return file


@pytest.fixture
def node() -> Iterator[Node]:
    with Lab(1) as lab:
        yield lab.nodes[0]


class Host:
    """One with a bundle that is still an archive."""

    def __init__(self, root: Path, archive: Path, where: str = "/opt") -> None:
        self.root = root
        self.prefix = f"{where}/headcni-{VERSION}"
        for folder in (*FOLDERS, where.strip("/")):
            (root / folder).mkdir(parents=True, exist_ok=True)
        os.mknod(root / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        shutil.copy(find("busybox"), root / "bin/busybox")
        shutil.copy(archive, root / f"tmp/headcni-{VERSION}.tar.gz")

    def unpack(self) -> Host:
        where = str(Path(self.prefix).parent)
        ok(self.run("/bin/busybox", "tar", "-xzf", f"/tmp/headcni-{VERSION}.tar.gz", "-C", where))
        return self

    def run(self, *command: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            (CHROOT, self.root, *command),
            env=environment or {},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def headcni(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(f"{self.prefix}/bin/headcni", *arguments)

    def booted(self) -> tuple[str, ...]:
        """In front of a command: with /proc, and with the namespaces of pods, also of those that come later."""
        mounts = 'mount -t proc proc "$0/proc" && mount --rbind /run/netns "$0/run/netns" && exec chroot "$0" "$@"'
        return ("unshare", "--mount", "--propagation", "slave", "sh", "-c", mounts, str(self.root))


@pytest.fixture(scope="module")
def host(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Host:
    return Host(tmp_path_factory.mktemp("host"), archive).unpack()


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_another_build_gives_the_same_bytes(archive: Path, made: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it shares with the image is compared in test_image.py."""
    monkeypatch.setenv("TMPDIR", str(archive.parent))
    monkeypatch.chdir(archive.parent)
    assert build.bundle(made, own_arch()) == archive.read_bytes()


def test_it_is_one_folder_of_root_without_sources(archive: Path) -> None:
    assert archive.stat().st_size < 35_000_000
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
    assert {each.name.split("/")[0] for each in members} == {f"headcni-{VERSION}"}
    assert {(each.uid, each.gid, each.uname) for each in members} == {(0, 0, "")}
    assert [each.name for each in members if each.mode & 0o6022 and not each.issym()] == []
    assert [each.name for each in members if each.name.endswith(".py")] == [f"headcni-{VERSION}/libexec/headcni.py"]
    assert [each.linkname for each in members if each.issym() and each.linkname.startswith("/")] == []
    assert sum(each.size for each in members) < 100_000_000


def test_it_is_the_command(host: Host) -> None:
    assert ok(host.headcni("--help")).startswith("usage: headcni")
    assert "/var/lib/headcni" in ok(host.headcni("config"))
    assert ok(host.headcni("states", "-o", "mermaid")).startswith("stateDiagram")


def test_it_lies_where_one_likes(archive: Path, tmp_path: Path) -> None:
    odd = Host(tmp_path / "host", archive, "/usr/local/lib/some where").unpack()
    assert "usage: headcni" in ok(odd.headcni("--help"))
    (tmp_path / "host/usr/bin").mkdir()
    (tmp_path / "host/usr/bin/headcni").symlink_to(f"../..{odd.prefix}/bin/headcni")
    assert "usage: headcni" in ok(odd.run("/usr/bin/headcni", "--help"))
    (tmp_path / "host/current").symlink_to(odd.prefix)
    assert "usage: headcni" in ok(odd.run("/bin/busybox", "sh", "-c", "cd /current/bin && ./headcni --help"))
    path = {"PATH": "/current/bin"}
    assert "usage: headcni" in ok(odd.run("/bin/busybox", "sh", "-c", "headcni --help", environment=path))


def test_a_program_that_it_has_not_is_no_mystery(host: Host) -> None:
    (host.root / PREFIX.strip("/") / "bin/other").symlink_to("headcni")
    done = host.run(f"{PREFIX}/bin/other")
    assert done.returncode == 127
    assert f"{PREFIX}/libexec/other" in done.stderr


def test_libraries_of_the_host_stay_out_of_it(host: Host, tmp_path: Path) -> None:
    """Were they another C library's, the program would not start at all."""
    libraries = host.root / "lib" / TRIPLETS[own_arch()]
    libraries.mkdir(parents=True)
    for file in (libraries / "libc.so.6", libraries / "libcrypto.so.3", host.root / "etc/ld.so.cache"):
        file.write_bytes(b"nonsense")
    program = "import ssl, reconciler.kube.package, pyroute2; print(open('/proc/self/maps').read())"
    command = (*host.booted(), f"{PREFIX}/bin/python3", "-c", program)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    mapped = {line.split(maxsplit=5)[5] for line in done.stdout.splitlines() if len(line.split(maxsplit=5)) == 6}
    loaded = {each for each in mapped if ".so" in each}
    assert any("libcrypto" in each for each in loaded)
    assert [each for each in loaded if not each.startswith(PREFIX)] == []


def test_public_authorities_are_its_own_unless_the_host_names_others(host: Host) -> None:
    program = "import ssl; print(len(ssl.create_default_context().get_ca_certs()))"
    assert int(ok(host.run(f"{PREFIX}/bin/python3", "-c", program))) > 100
    other = {"SSL_CERT_FILE": "/nowhere"}
    assert int(ok(host.run(f"{PREFIX}/bin/python3", "-c", program, environment=other))) == 0


def test_the_unit_of_systemd_is_in_it(host: Host) -> None:
    unit = (host.root / PREFIX.strip("/") / "share/systemd/headcni.service").read_bytes()
    assert unit == (REPOSITORY / "deploy/systemd/headcni.service").read_bytes()


APPROVER = ("--nodes=/etc/nodes.yaml", "--headscale-url=http://127.0.0.1:1", "--cluster-cidr=10.244.0.0/16", "--once")
INSTALL = (f"--plugin={PREFIX}/plugin/headcni", f"--loopback={PREFIX}/plugin/loopback")
WITH_A_DAEMON = {
    "status": (0, "runs"),
    "pods": (0, "box"),
    "show box": (0, "eth0"),
    "history": (0, ""),
    f"replay {STATE}": (0, "box"),
    "states": (0, "wired"),
    "config": (0, STATE),
    "config check /etc/headcni.yaml": (0, ""),
    "podcidr": (0, POD_CIDR),
    "doctor": (1, "cure"),
    "mesh": (1, "none"),
    "mesh status": (1, "none"),
    "mesh why box": (1, "none"),
    "mesh routes": (1, "none"),
    "mesh dns": (1, "none"),
    "mesh policy": (0, "autoApprovers"),
    "mesh repair": (1, "none"),
    " ".join(("approver", *APPROVER)): (1, "Connection refused"),
    "rbac": (0, "ClusterRole"),
    "migrate check": (1, "lannel"),
    " ".join(("install", *INSTALL)): (0, "is up to date"),
    "uninstall": (1, "stop"),
}
"""Each verb but `daemon`: its exit code, and a word of what it says. There is no mesh, no API, and no Flannel."""


def verbs(parser: argparse.ArgumentParser, above: str = "") -> Iterator[str]:
    """With those of verbs."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield f"{above}{name}"
                yield from verbs(inner, f"{above}{name} ")


class TestLife:
    @pytest.fixture
    def daemon(self, host: Host, node: Node, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonProcess]:
        monkeypatch.setattr(processes, "DAEMON", (*host.booted(), f"{PREFIX}/bin/headcni", "daemon"))
        monkeypatch.setenv("PATH", "/sbin:/usr/sbin:/bin:/usr/bin")
        state = host.root / STATE.strip("/")
        daemon = DaemonProcess(node, state, "--state-dir", STATE, "--pod-cidr", POD_CIDR)
        with daemon:
            daemon.wait_ready(30)
            yield daemon

    def test_it_serves_a_pod_by_the_plugin_it_installed(self, host: Host, node: Node, daemon: DaemonProcess) -> None:
        assert "installed" in ok(host.headcni("install", *INSTALL))
        plugin = (*host.booted(), "/opt/cni/bin/headcni")
        conf = {"cniVersion": "1.1.0", "name": "net", "type": "headcni", "ipam": {"type": "headcni-ipam"}}
        pod = node.new_pod_netns()

        def call(verb: str, **more: object) -> Answer:
            return PluginCall(node, {**conf, **more}, verb, "box", pod.path, command=plugin).call()

        assert "1.1.0" in call("VERSION").json["supportedVersions"]
        assert (call("STATUS").code, call("STATUS").raw) == (0, b"")
        added = call("ADD")
        address = added.address
        assert node.ping(address)
        assert call("CHECK", prevResult=added.json).code == 0
        assert call("GC", **{"cni.dev/valid-attachments": [{"containerID": "box", "ifname": "eth0"}]}).code == 0
        (host.root / "etc/nodes.yaml").write_text(NODES)
        (host.root / "etc/headcni.yaml").write_text("logLevel: info\n")
        for arguments, (code, word) in WITH_A_DAEMON.items():
            command = node.command(*host.booted(), f"{PREFIX}/bin/headcni", *arguments.split())
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            said = done.stdout + done.stderr
            assert (done.returncode, word in said, "Traceback" in said) == (code, True, False), (arguments, said)
        rules = node.run(*host.booted(), f"{PREFIX}/bin/nft", "list", "table", "inet", "headcni")
        assert "masquerade" in rules
        links = node.run(*host.booted(), f"{PREFIX}/bin/ip", "-details", "address")
        assert "veth" in links

        assert call("DEL").code == 0
        wait_until(lambda: not node.ping(address, timeout=1))
        assert daemon.stop() == 0
        removed = node.run(*host.booted(), f"{PREFIX}/bin/headcni", "uninstall", "--purge")
        assert "headcni" in removed
        assert list((host.root / "opt/cni/bin").glob("headcni*")) == []
        assert node.run("nft", "list", "ruleset") == ""

    def test_every_verb_was_run(self) -> None:
        wanted = {*verbs(build_parser())} - {"daemon"}
        assert len(wanted) > 15
        assert [each for each in wanted if not any(f"{run} ".startswith(f"{each} ") for run in WITH_A_DAEMON)] == []


PAGE = REPOSITORY / "docs/install/bare.md"
SYSTEMCTL = """\
#!/bin/busybox sh
# The little of systemd that the page needs: of the unit what it starts, and its variables.
start() {
    set -a; . /etc/default/headcni; set +a
    $(sed -n 's/^ExecStart=//p' /etc/systemd/system/headcni.service) > /tmp/log 2>&1 &
    echo $! > /tmp/pid
    until grep -q "\\"pid\\": $!," /var/lib/headcni/status.json 2> /dev/null; do kill -0 $! || exit 1; sleep 0.1; done
    until grep -q '"ready": true' /var/lib/headcni/status.json; do kill -0 $! || exit 1; sleep 0.1; done
}
stop() {
    kill "$(cat /tmp/pid)"
    while kill -0 "$(cat /tmp/pid)" 2> /dev/null; do sleep 0.1; done
    rm -f /tmp/pid
}
case ${*% headcni} in
    daemon-reload) ;;
    enable) ;;
    "start --no-block") start ;;
    "restart --no-block") stop; start ;;
    "disable --now") stop ;;
    *) exit 1 ;;
esac
"""


class TestPage:
    """docs/install/bare.md, followed word for word."""

    @pytest.fixture
    def bare(self, archive: Path, node: Node, tmp_path: Path) -> Iterator[Host]:
        bare = Host(tmp_path / "host", archive)
        ok(bare.run("/bin/busybox", "--install", "-s", "/bin"))
        (bare.root / "bin/systemctl").write_text(SYSTEMCTL)
        (bare.root / "bin/systemctl").chmod(0o755)
        yield bare
        left = bare.root / "tmp/pid"
        if left.exists():
            os.kill(int(left.read_text()), signal.SIGKILL)

    def test_it_leads_to_a_node_that_serves_and_back(self, bare: Host, node: Node) -> None:
        def follow(commands: str) -> str:
            return node.run(*bare.booted(), "/bin/sh", "-e", "-c", commands)

        folders = [bare.root / each for each in ("etc", "opt", "usr", "var")]
        before = tree.take(*folders)
        building, unpacking, configuring, starting, upgrading, removing = blocks()
        assert building.splitlines() == ["make bundle", f"mv build/headcni-bundle.tar.gz headcni-{VERSION}.tar.gz"]
        makefile = (REPOSITORY / "Makefile").read_text()
        assert "-m deploy.bundle.build build/headcni-bundle.tar.gz" in makefile.partition("\nbundle:")[2]
        follow(unpacking)
        follow(configuring)
        shown = follow(starting)
        assert re.search("^ready +yes", shown, re.MULTILINE)
        conflist = json.loads((bare.root / "etc/cni/net.d/10-headcni.conflist").read_text())
        assert conflist["name"] == "tailscale-cni"

        conf = {"cniVersion": "1.0.0", "name": conflist["name"], **conflist["plugins"][0]}
        plugin = (*bare.booted(), "/opt/cni/bin/headcni")
        pod = node.new_pod_netns()
        address = PluginCall(node, conf, "ADD", "box", pod.path, command=plugin).call().address
        follow(upgrading)
        assert node.ping(address)
        assert PluginCall(node, conf, "DEL", "box", pod.path, command=plugin).call().code == 0
        follow(removing)
        assert tree.take(*folders) == before


def blocks() -> list[str]:
    return re.findall(r"^```\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
