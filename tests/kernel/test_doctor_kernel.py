"""`headcni doctor` as a process on a real node: what is broken there, all of it, without a word to anybody."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from fixtures.processes import REPOSITORY
from fixtures.site import wait_until

pytestmark = pytest.mark.kernel

DROP = """
add table ip filter
add chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }
"""


@pytest.fixture
def doctor(site, tmp_path):
    """A runtime's host: with the plugin, and with our network."""
    for path, content in (("opt/cni/bin/headcni", "#!"), ("etc/cni/net.d/10-headcni.conflist", _conflist())):
        file = tmp_path / "host" / path
        file.parent.mkdir(parents=True)
        file.write_text(content)
        file.chmod(0o755)

    def run(*arguments, host=tmp_path / "host"):
        command = (sys.executable, "-m", "reconciler.operate.cli", "doctor", "--state-dir", str(site.state_dir))
        environment = {**os.environ, "HEADCNI_HOST_ROOT": str(host), "HEADCNI_KUBE": "off"}
        return subprocess.run(
            site.node.command(*command, *arguments), env=environment, cwd=REPOSITORY, capture_output=True, text=True,
            timeout=40, check=False,
        )  # fmt: skip

    return run


def _conflist():
    return json.dumps({"name": "net", "plugins": [{"type": "headcni", "ipam": {"type": "headcni-ipam"}}]})


def told(done):
    assert done.stderr == ""
    found = json.loads(done.stdout)["complaints"]
    assert done.returncode == (1 if found else 0)
    return {(each["theme"], each["code"]) for each in found}


def test_a_node_where_all_is_well(site, doctor):
    site.add()
    done = doctor()
    assert (done.returncode, done.stdout.splitlines()[0], done.stderr) == (0, "nothing is wrong", "")
    site.remove_all()


def test_everything_at_once_and_nothing_is_changed(site, doctor, tmp_path):
    node = site.node
    site.add()
    site.daemon.kill()
    try:
        node.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
        node.run("nft", "delete", "table", "inet", "headcni")
        node.run("nft", "-f", "-", input=DROP)
        node.run("ip", "link", "add", "docker0", "type", "bridge")
        node.run("ip", "address", "add", "10.244.1.1/24", "dev", "docker0")
        (tmp_path / "host/etc/cni/net.d/05-calico.conf").write_text('{"name": "k8s", "type": "calico"}')
        (site.state_dir / "quarantine/odd").write_text("x")
        before, files = node.snapshot(), sorted(site.state_dir.rglob("*"))
        assert told(doctor("-o", "json")) == {
            ("daemon", 50), ("node", 0), ("overlap", 166), ("neighbours", 190), ("neighbours", 191), ("records", 5),
        }  # fmt: skip
        assert before.difference(node.snapshot()) == ()
        assert sorted(site.state_dir.rglob("*")) == files
        page = doctor().stdout
        assert "net.ipv4.ip_forward is not 1" in page
        assert "table inet headcni is not there" in page
    finally:
        node.run("nft", "delete", "table", "ip", "filter")
        node.run("ip", "link", "del", "docker0")
        site.daemon.start()
        site.daemon.wait_ready()
    site.remove_all()


def test_what_the_daemon_puts_right_is_no_complaint(site, doctor):
    site.node.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    wait_until(lambda: site.node.run("sysctl", "-n", "net.ipv4.ip_forward").strip() == "1", 15)
    assert told(doctor("-o", "json")) == set()


def test_a_bundle(doctor, tmp_path):
    target = tmp_path / "b.tar.gz"
    assert doctor("--bundle", str(target)).returncode == 0
    listed = subprocess.run(("tar", "-tzf", target), capture_output=True, text=True, check=True).stdout.split()
    assert {"headcni/doctor.json", "headcni/state/status.json"} <= set(listed)
