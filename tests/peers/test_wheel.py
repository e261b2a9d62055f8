"""The daemon as a wheel in a virtual environment: what docs/install/systemd.md says is done, on a node of a lab.

Paths of the host lie below a directory of the test, which the commands are told by their environment; systemd is not
there, so the daemon is started by the unit's own line.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.image.contents import REPOSITORY, project
from fixtures import processes
from fixtures.lab import Lab, Node
from fixtures.processes import DaemonProcess, PluginCall
from fixtures.site import POD_CIDR

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]

PAGE = (REPOSITORY / "docs/install/systemd.md").read_text()
FILES = ("headcni", f"headcni-{project()['version']}-py3-none-any.whl")


def block(title: str, place: int = 0) -> str:
    section = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```\n(.*?)^```", section, re.DOTALL | re.MULTILINE)[place]


class Host:
    def __init__(self, root: Path) -> None:
        self.root, self.state, self.plugins = root, root / "state", root / "plugins"
        for each in ("opt", "tmp", "plugins"):
            (root / each).mkdir()
        self.state.mkdir(mode=0o700)

    def run(self, commands: str) -> str:
        for path in ("/opt/headcni", "/opt/cni", "/tmp/headcni", "/etc/systemd/system"):
            commands = commands.replace(path, f"{self.root}{path}")
        told = {"HEADCNI_STATE_DIR": self.state, "HEADCNI_CNI_BIN_DIR": self.plugins}
        told["PIP_CONSTRAINT"] = REPOSITORY / "constraints.txt"
        done = subprocess.run(
            ("sh", "-ec", commands), cwd=self.root, env=os.environ | told, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    made = Host(tmp_path_factory.mktemp("host"))
    subprocess.run(f"{block('Making it').strip()} --silent", shell=True, cwd=REPOSITORY, check=True)
    for name in FILES:
        (made.root / "tmp" / name).write_bytes((REPOSITORY / "build" / name).read_bytes())
    (made.root / "tmp/headcni.service").write_bytes((REPOSITORY / "deploy/systemd/headcni.service").read_bytes())
    made.run(block("Installing it"))
    return made


@pytest.fixture
def node() -> Iterator[Node]:
    with Lab(1) as lab:
        yield lab.nodes[0]


def test_it_serves_a_pod_by_the_plugin_it_installed(host: Host, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    (host.root / "etc/systemd/system").mkdir(parents=True)
    host.run(block("Installing it", 1).splitlines()[0])
    unit = (host.root / "etc/systemd/system/headcni.service").read_text()
    (started,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    monkeypatch.setattr(processes, "DAEMON", started.split())
    monkeypatch.setattr(processes, "REPOSITORY", host.root)  # nothing of it is found by chance
    with DaemonProcess(node, host.state, "--pod-cidr", POD_CIDR) as daemon:
        daemon.wait_ready(30)
        pod = node.new_pod_netns()
        conf = {"cniVersion": "1.1.0", "name": "net", "type": "headcni", "state_dir": str(host.state)}
        command = (str(host.plugins / "headcni"),)
        added = PluginCall(
            node, conf | {"ipam": {"type": "headcni-ipam"}}, "ADD", "box", pod.path, command=command
        ).call()
        assert added.code == 0, daemon.log_tail()
        assert node.ping(added.address)
        said = host.run(block("Upgrading").rpartition("systemctl")[0])
        assert "headcni" in said
        assert node.ping(added.address), "the plugin was put there again under a running pod"


def test_it_carries_all_of_ours_and_nothing_else(host: Host) -> None:
    installed = next((host.root / "opt/headcni/lib").glob("python3*/site-packages"))
    for package in ("cni", "statemachine", "reconciler"):
        found = {each.relative_to(installed) for each in (installed / package).rglob("*.py")}
        assert found == {each.relative_to(REPOSITORY) for each in (REPOSITORY / package).rglob("*.py")}
    assert not [each for each in ("tests", "fixtures", "deploy", "benchmarks") if (installed / each).exists()]
    assert "kubernetes" in {each.name for each in installed.iterdir()}, "by the extra"
