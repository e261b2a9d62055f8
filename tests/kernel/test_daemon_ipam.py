"""Other IPAM plugins under ours, and ours under other plugins."""

import json

import pytest

from fixtures.lab import Lab
from fixtures.processes import PLUGIN
from fixtures.site import Site, wait_until

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def lab():
    with Lab(2) as running:
        yield running


@pytest.fixture(scope="module")
def shared(lab, tmp_path_factory):
    with Site(lab.nodes[0], tmp_path_factory.mktemp("shared") / "state") as running:
        yield running


@pytest.fixture
def site(shared):
    yield shared
    shared.remove_all()


@pytest.fixture
def own_site(lab, tmp_path):
    with Site(lab.nodes[1], tmp_path / "state") as running:
        yield running


class Delegate:
    """A `host-local` of our own, in a shell: notes each call, answers what the test put beside it."""

    SCRIPT = """#!/bin/sh
cd ${0%%/*} && cat > $CNI_COMMAND.stdin && env > $CNI_COMMAND.env && echo $CNI_COMMAND >> calls
[ -e $CNI_COMMAND.error ] && cat $CNI_COMMAND.error && exit 1
[ $CNI_COMMAND = ADD ] && cat ADD.answer
exit 0
"""

    def __init__(self, directory, **answer):
        self.directory = directory
        program = directory / "host-local"
        program.write_text(self.SCRIPT.replace("%%", "%"))
        program.chmod(0o755)
        ips = [{"address": "10.50.0.9/24", "gateway": "10.50.0.1"}]
        (directory / "ADD.answer").write_text(json.dumps({"cniVersion": "1.1.0", "ips": ips, **answer}))
        self.more = {"conf": {"ipam": {"type": "host-local", "ranges": []}}, "env": {"CNI_PATH": str(directory)}}

    def fail(self, verb, code):
        (self.directory / f"{verb}.error").write_text(
            json.dumps({"code": code, "msg": "my own words", "details": "why"})
        )

    @property
    def calls(self):
        """But for STATUS, which the daemon asks now and then."""
        path = self.directory / "calls"
        return [verb for verb in path.read_text().split() if verb != "STATUS"] if path.exists() else []

    def environment(self, verb):
        return dict(line.partition("=")[::2] for line in (self.directory / f"{verb}.env").read_text().splitlines())


@pytest.fixture
def delegate(tmp_path):
    return Delegate(tmp_path, dns={"nameservers": ["10.96.0.10"]}, routes=[{"dst": "0.0.0.0/0"}])


def test_another_ipam_plugin_gives_the_address(site, delegate):
    answer = site.add(**delegate.more)
    assert answer.json["ips"] == [{"address": "10.50.0.9/32", "gateway": "10.50.0.1", "interface": 1}]
    assert answer.json["dns"] == {"nameservers": ["10.96.0.10"]}
    assert site.node.ping("10.50.0.9")
    assert site.call("CHECK", **delegate.more).code == 0
    site.delete(**delegate.more)
    wait_until(lambda: not site.records())
    assert delegate.calls == ["ADD", "CHECK", "DEL"]
    assert delegate.environment("DEL")["CNI_CONTAINERID"] == "box"
    assert json.loads((delegate.directory / "ADD.stdin").read_text())["ipam"] == {"type": "host-local", "ranges": []}


def test_its_error_is_passed_on_under_its_own_code_and_it_is_told_to_delete(site, delegate):
    delegate.fail("ADD", 142)
    answer = site.call("ADD", **delegate.more)
    assert (answer.json["code"], answer.json["msg"], answer.json["details"]) == (142, "my own words", "why")
    wait_until(lambda: not site.records())
    assert delegate.calls[-1] == "DEL"
    assert site.wrongs() == []


def test_its_check_fails_ours(site, delegate):
    site.add(**delegate.more)
    delegate.fail("CHECK", 143)
    assert site.call("CHECK", **delegate.more).json["code"] == 143


def test_garbage_is_its_to_collect_too(site, delegate):
    site.add(**delegate.more)
    conf = {**delegate.more["conf"], "cni.dev/valid-attachments": []}
    assert site.call("GC", conf=conf, env=delegate.more["env"]).code == 0
    assert site.records() == {}
    assert delegate.calls == ["ADD", "DEL", "GC"]


def test_after_a_restart_it_is_told_to_delete_what_nobody_calls_for(own_site, delegate):
    own_site.add(**delegate.more)
    own_site.wait_quiet()
    own_site.daemon.kill()
    own_site.remove_pod("box")
    wait_until(lambda: not own_site.host_links())
    own_site.restart()
    wait_until(lambda: not own_site.records(), otherwise=own_site.daemon.log_tail)
    assert delegate.calls == ["ADD", "DEL"]
    assert delegate.environment("DEL")["CNI_CONTAINERID"] == "box"
    assert delegate.environment("DEL")["CNI_PATH"] == str(delegate.directory)


@pytest.fixture
def ipam_only(tmp_path):
    """As `bridge` runs it: by the name of an IPAM plugin, under its own type."""
    program = tmp_path / "headcni-ipam"
    program.symlink_to(PLUGIN[-1])
    return {"command": (*PLUGIN[:-1], str(program)), "conf": {"type": "bridge", "bridge": "br0"}}


def test_ours_under_another_plugin_gives_addresses_and_makes_no_link(site, ipam_only):
    answer = site.add(**ipam_only)
    assert answer.json["ips"] == [{"address": f"{answer.address}/24", "gateway": "10.244.1.1"}]
    assert "interfaces" not in answer.json
    assert site.host_links() == set()
    assert site.add(**ipam_only).raw == answer.raw
    other = site.add("other", **ipam_only)
    assert other.address != answer.address
    site.wait_quiet()
    assert site.wrongs() == []
    site.delete(**ipam_only)
    wait_until(lambda: list(site.records()) == ["other@eth0"])


def test_ours_under_another_plugin_is_not_given_up_for_one_sign(own_site, ipam_only):
    """The name of its namespace is gone; somebody may still be in it."""
    own_site.add(**ipam_only)
    own_site.daemon.kill()
    own_site.remove_pod("box")
    own_site.restart()
    assert list(own_site.records()) == ["box@eth0"]
    own_site.delete(**ipam_only)
    wait_until(lambda: not own_site.records())


def test_a_pool_that_was_full_is_known_to_be_after_a_restart(lab, tmp_path):
    with Site(lab.nodes[1], tmp_path / "state", pod_cidr="10.244.1.0/30") as site:
        site.add()
        wait_until(lambda: not site.daemon.ready)
        site.daemon.kill()
        site.daemon.start()
        wait_until(lambda: site.daemon.status().get("pid") == site.daemon.pid)
        assert site.daemon.status()["not_ready"][0]["what"] == "pool 10.244.1.0/30 is empty"
        site.delete()
