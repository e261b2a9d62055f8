"""Files that are not as they should be, or not there at all, and what must not be in any of them."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from cni.spec import Code
from fixtures.site import wait_until
from reconciler.wiring.plan import host_name

pytestmark = pytest.mark.kernel


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
    time.sleep(1.2)
    assert site.add("first", conf={"timeout_seconds": 3}).seconds < 2
    time.sleep(1.2)
    assert site.add("second", conf={"timeout_seconds": 3}).seconds < 2
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


# --- secrets

SECRET = "hskey-auth-0123456789abcdef-verysecretindeed"


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
