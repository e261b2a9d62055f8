"""The daemon's life among people and accidents: signals, restarts, reboots, files that are not as they should be."""

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cni.spec import Code
from fixtures.lab import Lab
from fixtures.processes import DaemonProcess
from fixtures.site import Site, wait_until
from reconciler.wiring.plan import host_name
from statemachine.attachment import encode

pytestmark = pytest.mark.kernel

SECRET = "hskey-auth-0123456789abcdef-verysecretindeed"
SLOW = '#!/bin/sh\ncat >/dev/null; while [ ! -e $0.go ]; do sleep 0.05; done\n[ $CNI_COMMAND = ADD ] && echo \'%s\'; exit 0\n'
SLOW %= json.dumps({"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.7/24", "gateway": "10.9.0.1"}]})


@pytest.fixture(scope="module")
def node():
    with Lab(1) as lab:
        yield lab.nodes[0]


@pytest.fixture
def site(node, tmp_path):
    with Site(node, tmp_path / "state") as running:
        yield running


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


# --- files that cannot be read


def truncated(raw):
    return raw[: len(raw) // 2]


def edited_by_hand(raw):
    return raw.replace(b"advertised", b"wired", 1)


DAMAGES = {
    "empty": (lambda raw: b"", "empty file"),
    "truncated": (truncated, "not JSON"),
    "zeros": (lambda raw: bytes(len(raw)), "not JSON"),
    "edited": (edited_by_hand, "checksum"),
    "foreign": (lambda raw: b'{"kind": "Pod"}', "format is None"),
    "a list": (lambda raw: b"[]", "not a JSON object"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_moved_aside_and_its_pod_keeps_its_network(site, damage):
    change, reason = DAMAGES[damage]
    address = site.add().address
    site.add("other")
    site.wait_quiet()
    site.daemon.kill()
    raw = site.record_file().read_bytes()
    site.record_file().write_bytes(change(raw))
    site.restart()
    assert site.files("quarantine") == ["box@eth0.json", "box@eth0.json.reason"]
    assert reason in (site.state_dir / "quarantine" / "box@eth0.json.reason").read_text()
    keeps_its_network(site, address)
    assert site.daemon.status()["quarantined"] == 1


def test_a_directory_in_place_of_a_record_is_moved_aside(site):
    address = site.add().address
    site.wait_quiet()
    site.daemon.kill()
    site.record_file().unlink()
    (site.record_file() / "deeper").mkdir(parents=True)
    site.restart()
    assert "box@eth0.json" in site.files("quarantine")
    keeps_its_network(site, address)


def test_a_record_of_a_newer_version_is_left_alone_and_its_pod_keeps_its_network(site):
    address = site.add().address
    site.wait_quiet()
    site.daemon.kill()
    newer = site.record_file().read_bytes().replace(b"headcni/attachment/1", b"headcni/attachment/99")
    site.record_file().write_bytes(newer)
    site.restart()
    assert site.record_file().read_bytes() == newer
    assert any("headcni/attachment/99" in line for line in site.daemon.status()["warnings"])
    site.record_file().rename(site.state_dir / "aside")  # the helpers could not read it either
    keeps_its_network(site, address)


def keeps_its_network(site, address):
    assert site.pod("box").ping("10.244.1.1")
    assert site.node.ping(address)
    refused = site.call("ADD", "thief", conf={"runtimeConfig": {"ips": [address]}})
    assert refused.json["code"] == Code.ADDRESS_REFUSED
    assert "box@eth0" in refused.json["details"]
    assert site.add("another").address != address
    assert host_name("box@eth0") in site.host_links()


def test_a_pod_whose_record_was_damaged_can_be_deleted(site):
    before = site.node.snapshot()
    site.add()
    site.wait_quiet()
    site.daemon.kill()
    site.record_file().write_bytes(b"")
    site.restart()
    site.delete()
    wait_until(lambda: not site.host_links())
    assert site.wrongs() == []
    assert before.difference(site.node.snapshot()) == ()


BAD_INTENTS = {
    "00000000000000000001.1-bad@eth0.ADD.json": b'{"format": "headcni/intent/1"',
    "00000000000000000002.1-bad@eth0.ADD.json": b"",
    "00000000000000000004.1-bad@eth0.ADD.json": b'{"format": "somebody/else/1"}',
    "00000000000000000005.1-bad@eth0.ADD.json": b'{"format": "headcni/intent/1"}',
    "00000000000000000006.1-bad@eth0.ADD.json": b"\xff\xfe",
    "notes.txt": b"remember the milk",
    "00000000000000000007.1-bad@eth0.MUL.json": b"{}",
}


@pytest.mark.parametrize("running", [True, False])
def test_bad_intents_are_moved_aside_with_their_reason_and_stop_nothing_else(site, running):
    if not running:
        site.daemon.kill()
    for name, content in BAD_INTENTS.items():
        (site.state_dir / "intents" / name).write_bytes(content)
    (site.state_dir / "intents" / "00000000000000000008.1-bad@eth0.ADD.json").mkdir()
    if not running:
        site.restart()
    assert site.add().code == 0
    wait_until(lambda: not site.files("intents"))
    names = [*BAD_INTENTS, "00000000000000000008.1-bad@eth0.ADD.json"]
    assert site.files("quarantine") == sorted([*names, *[f"{name}.reason" for name in names]])
    assert all((site.state_dir / "quarantine" / f"{name}.reason").read_text().strip() for name in names)
    site.wait_quiet()
    assert site.wrongs() == []


def test_an_intent_of_a_newer_version_is_left_for_a_newer_daemon(site):
    newer = site.state_dir / "intents" / "00000000000000000001.1-newer@eth0.DEL.json"
    newer.write_text('{"format": "headcni/intent/99"}')
    site.add()
    site.restart()
    site.add()
    assert site.files("intents") == [newer.name]
    assert site.files("quarantine") == []
    newer.unlink()
    site.wait_quiet()
    assert site.wrongs() == []


def test_the_quarantine_keeps_everything_that_ever_came_into_it(site):
    site.daemon.kill()
    for content in (b"first", b"second"):
        site.record_file().write_bytes(content)
        site.daemon.start()
        site.daemon.wait_ready()
        site.daemon.kill()
    for deeper in ("third", "fourth"):
        (site.record_file() / deeper).mkdir(parents=True)
        site.daemon.start()
        site.daemon.wait_ready()
        site.daemon.kill()
    kept = [path for path in (site.state_dir / "quarantine").iterdir() if not path.name.endswith(".reason")]
    assert len(kept) == 4
    assert site.daemon.status()["quarantined"] == 4


def test_leftover_answers_of_an_earlier_boot_are_swept(site):
    site.daemon.kill()
    for directory in ("results", "tmp"):
        (site.state_dir / directory / "99999999999999999999.1-gone@eth0.result").touch()
    (site.state_dir / "tmp" / "daemon.1.1").touch()
    site.restart()
    assert site.files("results") == site.files("tmp") == []


# --- directories and bells that vanish while it runs


@pytest.mark.parametrize("name", ["intents", "results", "tmp", "attachments", "history", "doorbell"])
@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_what_vanishes_while_it_runs_is_made_again_and_calls_are_answered(site, name, how):
    site.add("before")
    site.wait_quiet()
    path = site.state_dir / name
    kept = site.state_dir.with_name("kept")
    path.rename(kept)
    if how == "replaced" and name != "doorbell":
        path.mkdir(mode=0o700)
    if how == "replaced" and name == "doorbell":
        os.mkfifo(path)
    assert site.add("first").seconds < 2
    assert site.add("second").seconds < 2
    site.delete("first")
    wait_until(lambda: "first@eth0" not in site.records())
    wait_until(path.exists, 3)
    site.delete("before")
    assert site.add("third").seconds < 0.5  # watched again, not only found by the rescan
    if kept.is_dir():
        shutil.rmtree(kept)
    site.wait_quiet()
    assert site.wrongs() == []


def leave_silently(site, container):
    """An intent for which nobody rings; the names of its answers."""
    now = time.monotonic_ns()
    stem = f"{now:020d}.1-{container}@eth0"
    env = {"CNI_CONTAINERID": container, "CNI_IFNAME": "eth0", "CNI_NETNS": site.pod(container).path}
    intent = {"format": "headcni/intent/1", "verb": "ADD", "plugin": "headcni", "boot_id": "", "made": now, "wall": 0}
    body = {**intent, "deadline": now + 20_000_000_000, "env": env, "config": json.dumps(site.conf)}
    draft = site.state_dir / "tmp" / f"{stem}.ADD.json"
    draft.write_text(json.dumps(body))
    draft.rename(site.state_dir / "intents" / draft.name)
    return site.state_dir / "results" / f"{stem}.result"


def test_without_a_ring_the_directory_is_watched(site):
    for n in range(5):
        began = time.monotonic()
        result = leave_silently(site, f"box{n}")
        wait_until(result.exists)
        assert time.monotonic() - began < 0.8
        result.unlink()
    site.wait_quiet()
    assert site.wrongs() == []


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch], ids=["directory", "file"])
def test_something_else_in_place_of_the_doorbell_stops_nothing(site, make):
    (site.state_dir / "doorbell").unlink()
    make(site.state_dir / "doorbell")
    time.sleep(1.5)
    assert site.add("first").seconds < 2
    time.sleep(1.5)
    assert site.add("second").seconds < 2
    site.wait_quiet()
    assert site.wrongs() == []


def test_a_bad_intent_is_moved_aside_although_the_quarantine_is_gone(site):
    (site.state_dir / "quarantine").rmdir()
    (site.state_dir / "intents" / "notes.txt").write_text("remember the milk")
    site.add()
    wait_until(lambda: not site.files("intents"))
    assert site.files("quarantine") == ["notes.txt", "notes.txt.reason"]


def test_a_plugin_whose_bell_is_lost_looks_by_itself(site):
    site.daemon.kill()
    call = site.start("ADD")
    wait_until(lambda: site.files("intents"))
    for bell in (site.state_dir / "results").glob("*.bell"):
        bell.unlink()
    site.restart()
    answered = time.monotonic()
    assert call.wait().code == 0
    assert time.monotonic() - answered < 1


# --- a full disk


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=200", "tmpfs", str(mounted)), check=True)
    yield mounted
    subprocess.run(("umount", "--lazy", str(mounted)), check=True)


def fill(disk):
    """To the last byte; the file that does it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        size = 1 << 16
        while size:
            try:
                file.write(bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC
                size //= 2
    return ballast


def exhaust_inodes(disk):
    crowd = disk / "crowd"
    crowd.mkdir()
    try:
        for n in range(1000):
            (crowd / str(n)).touch()
    except OSError as error:
        assert error.errno == errno.ENOSPC
    return crowd


def make_room(what):
    if what.is_dir():
        shutil.rmtree(what)
    else:
        what.unlink()


@pytest.fixture
def small(node, disk):
    with Site(node, disk / "state") as running:
        yield running


@pytest.mark.parametrize("exhaust", [fill, exhaust_inodes])
def test_on_a_full_disk_adds_fail_clearly_and_deletes_work(small, disk, exhaust):
    before = small.node.snapshot()
    small.add("one")
    small.add("two")
    small.wait_quiet()
    obstacle = exhaust(disk)
    refused = small.call("ADD", "three", conf={"timeout_seconds": 3})
    assert refused.code == 1
    assert refused.json["code"] == Code.IO_FAILURE
    assert "No space left on device" in refused.json["msg"]
    assert str(small.state_dir) in json.dumps(refused.json)
    if exhaust is fill:  # an intent needs an inode
        small.delete("one", conf={"timeout_seconds": 3})
        wait_until(lambda: small.host_links() == {host_name("two@eth0")}, 5)
    else:
        assert small.call("DEL", "one").json["code"] == Code.IO_FAILURE
    make_room(obstacle)
    small.delete("one")
    small.add("three")
    small.delete("two")
    small.wait_quiet()
    assert list(small.records()) == ["three@eth0"]
    assert small.wrongs() == []
    small.delete("three")
    wait_until(lambda: not small.records())
    assert before.difference(small.node.snapshot()) == ()


@pytest.mark.parametrize("exhaust", [fill, exhaust_inodes])
def test_a_disk_that_fills_up_after_the_intent_refuses_the_add_and_undoes_it(small, disk, exhaust):
    small.daemon.send(signal.SIGSTOP)
    call = small.start("ADD", conf={"timeout_seconds": 3})
    wait_until(lambda: small.files("intents"))
    obstacle = exhaust(disk)
    small.daemon.send(signal.SIGCONT)
    answer = call.wait()
    assert answer.code == 1
    if exhaust is fill:  # without an inode there is no answer, only the deadline
        assert answer.json["code"] == Code.IO_FAILURE
        assert answer.seconds < 2
    make_room(obstacle)
    wait_until(lambda: not small.host_links() and not small.records())
    small.wait_quiet()
    assert small.wrongs() == []


@pytest.mark.parametrize("exhaust", [fill, exhaust_inodes])
def test_a_delete_left_on_a_full_disk_without_a_daemon_is_finished(small, disk, exhaust):
    small.add()
    small.wait_quiet()
    small.daemon.kill()
    obstacle = exhaust(disk)
    if exhaust is fill:
        small.delete()  # its name needs an inode, no space
    small.daemon.start()
    if exhaust is fill:
        wait_until(lambda: not small.host_links(), 5)
    assert small.daemon.running
    make_room(obstacle)
    small.daemon.wait_ready()
    small.delete()
    wait_until(lambda: not small.records())
    small.wait_quiet()
    assert small.wrongs() == []


# --- secrets


def test_no_secret_reaches_a_file_or_the_log(site):
    conf = {"auth_key": SECRET, "headscale": {"api_key": SECRET}, "args": {"cni": {"token": SECRET}}}
    args = f"IgnoreUnknown=1;K8S_POD_NAME=web;TOKEN={SECRET};AUTH={SECRET}"
    site.add(conf=conf, args=args)
    site.wait_quiet()
    site.call("CHECK", conf=conf, args=args)
    site.call("ADD", "bad", conf={**conf, "mtu": SECRET}, args=args)
    site.call("ADD", "bad", conf=conf, args=args + f";{SECRET}")
    assert holding_the_secret(site) == []
    site.daemon.send(signal.SIGHUP)
    site.delete(conf=conf, args=args)
    wait_until(lambda: not site.records())
    site.daemon.stop()
    assert holding_the_secret(site) == []


def holding_the_secret(site):
    files = [path for path in site.state_dir.rglob("*") if path.is_file()]
    return [str(path) for path in (*files, site.daemon.log) if b"verysecret" in path.read_bytes()]
