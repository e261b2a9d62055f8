"""What runtimes do at the same instant, and in the wrong order."""

import json
import time

import pytest

from cni.spec import Code
from fixtures.site import wait_until

pytestmark = pytest.mark.kernel


def plugin(directory, name, script):
    """An IPAM plugin of our own, in a shell."""
    path = directory / name
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)
    return {"CNI_PATH": str(directory)}


ANSWER = json.dumps({"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.7/24", "gateway": "10.9.0.1"}]})
SLOW = f"cat >/dev/null; while [ ! -e $0.go ]; do sleep 0.05; done; [ $CNI_COMMAND = ADD ] && echo '{ANSWER}'; exit 0\n"
DELEGATED = {"ipam": {"type": "slow"}}


@pytest.fixture
def slow(tmp_path):
    """The environment of calls whose IPAM plugin waits until `go` is touched."""
    return plugin(tmp_path, "slow", SLOW)


@pytest.fixture
def go(tmp_path):
    return (tmp_path / "slow.go").touch


def test_two_adds_of_one_attachment_get_one_answer_and_one_link(site):
    calls = [site.start("ADD") for _ in range(2)]
    first, second = (call.wait() for call in calls)
    assert first.code == second.code == 0
    assert first.json == second.json
    site.wait_quiet()
    assert site.wrongs() == []
    assert len(site.host_links()) == 1


def test_twenty_adds_of_one_attachment_get_one_answer(site):
    calls = [site.start("ADD") for _ in range(20)]
    answers = {call.wait().raw for call in calls}
    assert len(answers) == 1
    site.wait_quiet()
    assert site.wrongs() == []


def test_a_delete_during_an_add_wins(site, slow, go):
    add = site.start("ADD", conf=DELEGATED, env=slow)
    wait_until(lambda: site.records() or site.log_lines("policy") or site.files("intents"))
    delete = site.start("DEL", conf=DELEGATED, env=slow)
    go()
    answer = add.wait()
    assert delete.wait().code == 0
    assert answer.code == 0 or answer.json["code"] == Code.TRY_AGAIN_LATER
    wait_until(lambda: not site.records())
    assert site.wrongs() == []


def test_deletes_thrown_into_adds_leave_nothing_or_everything(site):
    for _ in range(10):
        calls = [site.start("ADD"), site.start("DEL")]
        added, deleted = (call.wait() for call in calls)
        assert deleted.code == 0
        assert added.code == 0 or added.json["code"] == Code.TRY_AGAIN_LATER
        site.wait_quiet()
        assert site.wrongs() == []
    site.delete()
    wait_until(lambda: not site.records())
    assert site.wrongs() == []


def test_a_delete_before_the_add_succeeds_and_the_add_too(site):
    site.delete()
    site.add()
    site.wait_quiet()
    assert site.wrongs() == []


def test_a_deleted_attachment_may_be_added_again_at_once(site):
    site.add()
    for _ in range(5):
        site.delete()
        site.add()
    site.wait_quiet()
    assert site.wrongs() == []
    assert len(site.records()) == 1


def test_a_late_delete_of_an_old_sandbox_does_not_touch_the_new_one(site):
    pod = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=db-0;K8S_POD_UID=1"
    site.add("old", args=pod)
    new = site.add("new", args=pod)
    site.delete("old", args=pod)
    wait_until(lambda: list(site.records()) == ["new@eth0"])
    assert site.wrongs() == []
    assert site.node.ping(new.address)
    site.delete("old", args=pod)
    assert site.wrongs() == []


def test_a_late_delete_that_names_the_new_namespace_does_not_touch_it(site):
    """Runtimes hand out paths such as /proc/7/ns/net, and the number is somebody else's by now."""
    site.add("old")
    new = site.pod("new")
    site.add("new")
    site.delete("old", netns=new.path)
    wait_until(lambda: list(site.records()) == ["new@eth0"])
    assert site.wrongs() == []


def test_a_stuck_attachment_delays_no_other(site, slow, go):
    stuck = site.start("ADD", "stuck", conf=DELEGATED, env=slow)
    wait_until(lambda: site.files("intents"))
    assert max(site.add(f"box{n}").seconds for n in range(3)) < 1.0
    assert stuck.process.poll() is None
    go()
    assert stuck.wait().code == 0
    site.wait_quiet()
    assert site.wrongs() == []


def test_a_request_waits_for_the_one_before_it_of_the_same_attachment(site, slow, go):
    add = site.start("ADD", conf=DELEGATED, env=slow)
    wait_until(lambda: site.files("intents"))
    check = site.start("CHECK", conf=DELEGATED, env=slow)
    time.sleep(0.3)
    assert check.process.poll() is None
    go()
    assert add.wait().code == 0
    assert check.wait().code == 0, check
    assert site.wrongs() == []


def test_a_request_that_waits_too_long_is_told_to_come_again(site, slow, go):
    add = site.start("ADD", conf=DELEGATED, env=slow)
    wait_until(lambda: site.files("intents"))
    late = site.call("CHECK", conf={**DELEGATED, "timeout_seconds": 1}, env=slow)
    assert late.json["code"] == Code.TRY_AGAIN_LATER
    assert "box@eth0" in json.dumps(late.json) or "in time" in late.json["msg"]
    go()
    assert add.wait().code == 0
    site.wait_quiet()
    assert site.wrongs() == []


def test_thirty_adds_at_once_and_thirty_deletes(site):
    before = site.node.snapshot()
    names = [f"box{n}" for n in range(30)]
    for name in names:
        site.pod(name)
    began = time.monotonic()
    calls = [site.start("ADD", name) for name in names]
    answers = [call.wait() for call in calls]
    added = time.monotonic() - began
    assert [answer.code for answer in answers] == [0] * 30
    assert len({answer.address for answer in answers}) == 30
    site.wait_quiet()
    assert site.wrongs() == []
    began = time.monotonic()
    calls = [site.start("DEL", name) for name in names]
    assert [call.wait().code for call in calls] == [0] * 30
    wait_until(lambda: not site.records())
    print(f"30 ADDs at once: {added:.2f} s; 30 DELs until gone: {time.monotonic() - began:.2f} s")
    assert site.wrongs() == []
    assert before.difference(site.node.snapshot()) == ()


def test_adds_and_deletes_of_many_mixed(site):
    keep = {f"keep{n}" for n in range(8)}
    for n in range(8):
        site.add(f"gone{n}")
    for name in keep:
        site.pod(name)
    calls = [site.start("ADD", name) for name in sorted(keep)] + [site.start("DEL", f"gone{n}") for n in range(8)]
    assert [call.wait().code for call in calls] == [0] * 16
    wait_until(lambda: set(site.records()) == {f"{name}@eth0" for name in keep})
    site.wait_quiet()
    assert site.wrongs() == []


def test_one_container_may_have_two_interfaces(site):
    first = site.add()
    second = site.add(ifname="net1", conf={"ipam": {"subnet": "10.99.0.0/24", "routes": [{"dst": "10.98.0.0/16"}]}})
    assert first.address != second.address
    site.wait_quiet()
    assert site.wrongs() == []
    site.delete(ifname="net1")
    wait_until(lambda: list(site.records()) == ["box@eth0"])
    assert site.wrongs() == []
    assert site.node.ping(first.address)
