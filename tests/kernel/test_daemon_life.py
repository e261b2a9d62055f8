"""The daemon's life: signals, starts, calls while it is down, and what became of the kernel and the clock meanwhile."""

import json
import os
import signal
import subprocess
import time
from dataclasses import replace

import pytest

from cni.spec import Code
from fixtures.processes import DaemonProcess
from fixtures.site import Site, wait_until
from reconciler.wiring.plan import host_name
from statemachine.attachment import encode

pytestmark = pytest.mark.kernel


ADDRESS = {"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.7/24", "gateway": "10.9.0.1"}]}
SLOW = f"""#!/bin/sh
cat >/dev/null
while [ ! -e $0.go ]; do sleep 0.05; done
[ $CNI_COMMAND = ADD ] && echo '{json.dumps(ADDRESS)}'
exit 0
"""


@pytest.fixture
def config(tmp_path):
    return tmp_path / "config.yaml"


@pytest.fixture
def configured(node, tmp_path, config):
    config.write_text("logLevel: info\n")
    with Site(node, tmp_path / "state", "--config", str(config)) as running:
        yield running


# --- SIGTERM, SIGHUP, the lock


def test_sigterm_ends_a_daemon_at_rest_at_once(site):
    site.add()
    began = time.monotonic()
    assert site.daemon.stop() == 0
    assert time.monotonic() - began < 1
    assert not site.daemon.status()["ready"]
    assert site.host_links() == {host_name("box@eth0")}


def test_sigterm_leaves_what_is_not_done_to_the_next_daemon(site, tmp_path):
    slow = tmp_path / "slow"
    slow.write_text(SLOW)
    slow.chmod(0o755)
    call = site.start("ADD", conf={"ipam": {"type": "slow"}}, env={"CNI_PATH": str(tmp_path)})
    wait_until(lambda: site.files("intents"))
    time.sleep(0.2)
    began = time.monotonic()
    assert site.daemon.stop() == 0
    assert time.monotonic() - began < 5
    assert len(site.files("intents")) == 1
    (tmp_path / "slow.go").touch()
    site.restart()
    assert call.wait().address == "10.9.0.7"
    site.wait_quiet()
    assert site.wrongs() == []


def test_sigterm_during_a_burst_loses_nothing(site):
    names = [f"box{n}" for n in range(10)]
    for name in names:
        site.pod(name)
    calls = [site.start("ADD", name) for name in names]
    wait_until(lambda: len(site.files("intents")) + len(site.records()) >= 5)
    assert site.daemon.stop(5) == 0
    site.restart()
    assert [call.wait().code for call in calls] == [0] * 10
    site.wait_quiet()
    assert site.wrongs() == []


def test_sighup_reloads_and_says_what_changed(configured, config):
    config.write_text("logLevel: debug\nnetwork: {masquerade: false, serviceCIDR: 10.97.0.0/16}\n")
    configured.daemon.send(signal.SIGHUP)
    wait_until(lambda: len(configured.log_lines("configuration reloaded")) == 3)
    lines = "\n".join(configured.log_lines("configuration reloaded"))
    assert "network.masquerade: true -> false (in effect)" in lines
    assert "logLevel: info -> debug (in effect)" in lines
    assert "network.serviceCIDR: 10.96.0.0/16 -> 10.97.0.0/16 (takes effect at the next start)" in lines
    assert "masquerade" not in "\n".join(configured.node.snapshot().nft)


def test_a_reloaded_mtu_is_that_of_the_next_pod(configured, config):
    config.write_text("network: {mtu: 1400}\n")
    configured.daemon.send(signal.SIGHUP)
    wait_until(lambda: configured.log_lines("network.mtu: 0 -> 1400 (in effect)"))
    assert configured.add().json["interfaces"][0]["mtu"] == 1400


def test_sighup_without_a_change_says_so(configured):
    configured.daemon.send(signal.SIGHUP)
    wait_until(lambda: configured.log_lines("configuration reloaded: nothing changed"))


@pytest.mark.expects_errors
def test_a_wrong_configuration_changes_nothing(configured, config):
    before = configured.node.snapshot()
    config.write_text("network: {masquerade: false, mtu: 17}\nlogLevel: loud\n")
    configured.daemon.send(signal.SIGHUP)
    wait_until(lambda: len(configured.log_lines("configuration not reloaded")) >= 2)
    said = "\n".join(configured.log_lines("configuration not reloaded"))
    assert "network.mtu = 17" in said
    assert "logLevel = loud" in said
    assert before.difference(configured.node.snapshot()) == ()
    configured.add()


def test_the_status_has_the_beat_of_its_writer(site):
    beat = site.daemon.status()["cni_beat"]
    assert 0 <= time.monotonic_ns() - beat < 15 * 10**9
    assert site.call("STATUS").code == 0


@pytest.mark.expects_errors
def test_a_second_daemon_refuses_to_start_and_says_who_holds_the_directory(site):
    site.add()
    second = DaemonProcess(site.node, site.state_dir, "--pod-cidr", "10.244.9.0/24")
    second.start()
    assert second.process.wait(10) == 1
    refused = site.log_lines("another daemon holds")
    assert len(refused) == 1
    assert f"pid {site.daemon.pid}" in refused[0]
    assert site.add("other").code == 0
    site.wait_quiet()
    assert site.wrongs() == []


# --- calls while there is no daemon


def test_a_delete_without_a_daemon_returns_at_once_and_is_finished_by_the_next(site):
    before = site.node.snapshot()
    site.add()
    site.daemon.kill()
    answer = site.call("DEL")
    assert (answer.code, answer.raw) == (0, b"")
    assert answer.seconds < 2
    assert site.host_links()
    site.restart()
    wait_until(lambda: not site.records())
    assert site.wrongs() == []
    assert before.difference(site.node.snapshot()) == ()


def test_an_add_while_the_daemon_restarts_is_only_slow(site):
    site.daemon.kill()
    call = site.start("ADD")
    wait_until(lambda: site.files("intents"))
    site.restart()
    assert call.wait().code == 0
    site.wait_quiet()
    assert site.wrongs() == []


def test_an_add_without_a_daemon_is_told_so_and_never_executed(site):
    site.daemon.kill()
    answer = site.call("ADD", conf={"timeout_seconds": 1})
    assert answer.json["code"] == Code.TRY_AGAIN_LATER
    assert "no HeadCNI daemon runs" in answer.json["msg"]
    assert 1 <= answer.seconds < 4
    assert site.files("intents") == site.files("results") == []
    site.restart()
    assert site.records() == {}
    assert site.wrongs() == []


def test_an_intent_whose_plugin_was_killed_is_not_executed_after_its_deadline(site):
    site.daemon.kill()
    call = site.start("ADD", conf={"timeout_seconds": 1})
    wait_until(lambda: site.files("intents"))
    call.process.kill()
    call.wait()
    time.sleep(1.1)
    site.restart()
    wait_until(lambda: not site.files("intents"))
    assert site.log_lines("discarded")
    assert site.records() == {}
    assert site.wrongs() == []


def test_calls_made_without_a_daemon_are_answered_in_their_order(site):
    site.daemon.kill()
    calls = []
    for verb in ("ADD", "DEL", "ADD", "CHECK"):
        left = len(site.files("intents"))
        calls.append(site.start(verb))
        wait_until(lambda left=left: len(site.files("intents")) > left)
        if verb == "DEL":
            assert calls[-1].wait().code == 0
    site.restart()
    assert [call.wait().code for call in calls if call is not calls[1]] == [0, 0, 0]
    site.wait_quiet()
    assert list(site.records()) == ["box@eth0"]
    assert site.wrongs() == []


# --- what became of namespaces and links


def test_a_pod_that_died_while_the_daemon_was_down_is_collected(site):
    before = site.node.snapshot()
    site.add()
    site.add("other")
    site.daemon.kill()
    site.remove_pod("box")
    wait_until(lambda: site.host_links() == {host_name("other@eth0")})
    site.restart()
    wait_until(lambda: list(site.records()) == ["other@eth0"])
    assert site.wrongs() == []
    site.delete("other")
    wait_until(lambda: not site.records())
    assert before.difference(site.node.snapshot()) == ()


def test_a_link_deleted_while_the_daemon_was_down_is_made_again(site):
    address = site.add().address
    site.wait_quiet()
    site.daemon.kill()
    site.node.run("ip", "link", "del", host_name("box@eth0"))
    site.restart()
    wait_until(lambda: site.host_links() and site.quiet())
    assert site.wrongs() == []
    assert site.node.ping(address)


def test_a_namespace_that_was_replaced_under_its_path_is_left_alone(site):
    site.add()
    site.daemon.kill()
    path = site.pod("box").path
    name = os.path.basename(path)
    subprocess.run(("ip", "netns", "del", name), check=True)
    subprocess.run(("ip", "netns", "add", name), check=True)
    wait_until(lambda: not site.host_links())
    site.restart()
    wait_until(lambda: not site.records())
    assert site.wrongs() == []


def test_an_orphan_link_of_ours_is_removed_and_foreign_links_stay(site):
    site.add()
    site.wait_quiet()
    host = host_name("box@eth0")
    group = next(line for line in site.node.run("ip", "-d", "-o", "link", "show", host).split(" group ")[1:]).split()[0]
    site.daemon.kill()
    for name, more in (("hcorphan", ("group", group)), ("hcforeign", ()), ("foreign", ("group", "7"))):
        site.node.run("ip", "link", "add", name, *more, "type", "bridge")
    try:
        site.restart()
        wait_until(lambda: "hcorphan" not in site.node.run("ip", "-o", "link"))
        assert site.log_lines("orphan link=hcorphan")
        links = site.node.run("ip", "-o", "link")
        assert ": foreign:" in links
        assert ": hcforeign:" in links
        assert site.wrongs() == []
    finally:
        for name in ("hcforeign", "foreign"):
            site.node.run("ip", "link", "del", name)


# --- a reboot


def rewrite(site, container="box", **changes):
    record = site.records()[f"{container}@eth0"]
    site.record_file(container).write_bytes(encode(replace(record, **changes)))


def test_records_of_another_boot_are_torn_down_and_their_addresses_free(site):
    before = site.node.snapshot()
    address = site.add().address
    site.wait_quiet()
    site.daemon.kill()
    rewrite(site, boot_id="another-boot")
    site.restart()
    wait_until(lambda: not site.records())
    assert site.wrongs() == []
    assert before.difference(site.node.snapshot()) == ()
    assert site.add("next", conf={"runtimeConfig": {"ips": [address]}}).address == address


def test_an_add_of_another_boot_is_discarded_and_a_delete_is_done(site):
    site.add("goes")
    site.wait_quiet()
    site.daemon.kill()
    call = site.start("ADD")
    wait_until(lambda: site.files("intents"))
    call.process.kill()
    call.wait()
    site.delete("goes")
    for path in (site.state_dir / "intents").iterdir():
        intent = json.loads(path.read_bytes())
        path.write_text(json.dumps({**intent, "boot_id": "another-boot"}))
    site.restart()
    wait_until(lambda: not site.files("intents") and not site.records())
    assert site.wrongs() == []


@pytest.mark.parametrize("wall", [1, 4_102_444_800_000_000_000])
def test_a_wall_clock_that_jumped_expires_nothing_and_revives_nothing(site, wall):
    """The daemon has only what is in files to go by: intents and records as another clock would have written them."""
    site.add("old")
    site.wait_quiet()
    site.daemon.kill()
    rewrite(site, "old", since=wall / 1e9, created=wall / 1e9)
    call = site.start("ADD")
    wait_until(lambda: site.files("intents"))
    path = site.state_dir / "intents" / site.files("intents")[0]
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "wall": wall}))
    site.restart()
    assert call.wait().code == 0
    site.wait_quiet()
    assert set(site.records()) == {"old@eth0", "box@eth0"}
    assert site.wrongs() == []
