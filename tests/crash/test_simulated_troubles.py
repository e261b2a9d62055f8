"""Troubles that were found by reading, each once: what would have been lost, leaked or given twice."""

import json
import shutil
import tempfile
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from cni.result import Ip, Result
from cni.spec import Code, Refusal, Verb
from fixtures.simulation import Node
from statemachine.attachment import State, encode


@pytest.fixture
def node():
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="headcni-", dir=memory if memory.is_dir() else None))
    node = Node(root / "state")
    yield node
    node.stop()
    shutil.rmtree(root)


def given(answer):
    assert answer.ok, answer
    return answer.addresses[0].partition("/")[0]


HOST_LOCAL = {"ipam": {"type": "host-local"}}


def delegate_gives(node, address="10.9.0.5/24"):
    node.delegate_answers[Verb.ADD] = Result(ips=(Ip(address, "10.9.0.1"),))


# --- what the runtime said


def test_the_list_of_a_gc_stays_known_with_its_time(node):
    given(node.add("pod1"))
    given(node.add("pod2"))
    node.ask("GC", **{"cni.dev/valid-attachments": [{"containerID": "pod2", "ifname": "eth0"}]})
    assert node.live()
    record = node.desk.records["pod2@eth0"]
    ((at, valid),) = node.engine.runtime_lists.values()
    assert list(node.engine.runtime_lists) == [record.network]
    assert valid == {"pod2@eth0"}
    assert at >= record.created


# --- addresses of what cannot be read


def test_the_address_of_a_record_of_a_newer_version_is_not_given_again(node):
    address = given(node.add("p", plugin="headcni-ipam"))
    path = node.root / "attachments" / "p@eth0.json"
    path.write_text(path.read_text().replace("headcni/attachment/1", "headcni/attachment/2"))
    node.start()
    assert given(node.add("q", plugin="headcni-ipam")) != address


def test_the_address_of_a_damaged_record_is_kept_until_its_delete(node):
    address = given(node.add("p"))
    path = node.root / "attachments" / "p@eth0.json"
    path.write_text(path.read_text().replace('"generation": 1', '"generation": 2'))  # the checksum tells
    node.start()
    node.live()
    assert len(node.kernel.links) == 1
    assert node.ledger.owner_of(ip_address(address)) == "unreadable:p@eth0"
    assert node.delete("p").ok
    assert node.kernel.links == {}
    assert node.ledger.owner_of(ip_address(address)) is None


def test_two_records_of_one_address_do_not_make_a_third(node):
    address = given(node.add("p"))
    twin = replace(node.on_disk()["p@eth0"], container="q")
    (node.root / "attachments" / "q@eth0.json").write_bytes(encode(twin))
    node.start()
    node.live()
    assert node.delete("p").ok
    assert given(node.add("r")) != address


def test_a_torn_down_record_holds_nothing_after_a_restart(node):
    address = given(node.add("p"))
    closed = replace(node.on_disk()["p@eth0"], state=State.TORN_DOWN, closed_mono=node.clock.now())
    (node.root / "attachments" / "p@eth0.json").write_bytes(encode(closed))
    node.kernel.links.clear()
    node.kernel.isolated.clear()
    node.start()
    node.live()
    assert node.wrongs() == []
    assert node.ledger.owner_of(ip_address(address)) is None


# --- what waits for its next try


def test_the_audit_collects_a_dead_pod_whose_advertising_keeps_failing(node):
    node.advertiser.refusal = Refusal(Code.KERNEL_REFUSED, "no route")
    assert node.add("p").ok
    node.kernel.drop_namespace("/ns/p")
    node.audit()
    assert node.on_disk() == {}


def test_the_audit_gives_a_link_back_to_a_pod_whose_advertising_keeps_failing(node):
    node.advertiser.refusal = Refusal(Code.KERNEL_REFUSED, "no route")
    assert node.add("p").ok
    node.kernel.links.clear()
    node.audit()
    assert len(node.kernel.links) == 1


# --- other IPAM plugins


def test_a_delete_goes_to_the_plugin_that_gave_the_address(node):
    """Not to the one that today's configuration names."""
    delegate_gives(node)
    assert node.add("p", **HOST_LOCAL).ok
    assert node.delete("p").ok
    assert Verb.DEL in [verb for verb, _, _ in node.delegate_calls]


def test_a_delete_does_not_go_to_a_plugin_that_gave_nothing(node):
    assert node.add("p").ok
    assert node.delete("p", **HOST_LOCAL).ok
    assert node.delegate_calls == []


def test_a_plugin_that_refuses_for_ever_leaves_no_record(node):
    node.delegate_answers[Verb.ADD] = node.delegate_answers[Verb.DEL] = Refusal(999, "netmask too short")
    answer = node.add("p", **HOST_LOCAL)
    assert answer.code == 999
    assert node.on_disk() == {}
    assert node.delete("p", **HOST_LOCAL).ok


def test_a_plugin_that_needs_all_the_time_is_named_before_the_deadline(node):
    """Not code 11, which says nothing."""
    node.delegate_answers[Verb.ADD] = Refusal(Code.DELEGATE_FAILED, "did not end within 16.8 s")
    answer = node.add("p", timeout=1.05, **HOST_LOCAL)
    assert answer.code == Code.DELEGATE_FAILED


# --- calls


@pytest.mark.parametrize("ipam", [{"allocation_strategy": "bogus"}, {"cooldown_seconds": "x"}])
@pytest.mark.parametrize("verb", ["ADD", "CHECK"])
def test_a_broken_configuration_is_answered(node, verb, ipam):
    node.kernel.make_namespace("/ns/p")
    assert node.call(verb, "p", ipam=ipam).code == Code.INVALID_CONFIGURATION


def test_a_delete_owed_after_a_broken_add_succeeds(node):
    node.kernel.make_namespace("/ns/p")
    broken = {"ipam": {"subnet": "10.0.0.1/24"}}
    assert node.call("ADD", "p", **broken).code == Code.INVALID_CONFIGURATION
    assert node.delete("p", **broken).ok


def test_a_delete_with_a_broken_configuration_goes_by_the_record(node):
    assert node.add("p").ok
    assert node.delete("p", ipam={"subnet": "10.0.0.1/24"}).ok
    assert node.wrongs() == []
    assert node.on_disk() == {}


def test_a_list_of_what_may_stay_that_is_left_out_is_empty(node):
    """libcni leaves an empty list out."""
    assert node.add("p").ok
    assert node.call("GC").ok
    assert node.on_disk() == {}


def test_garbage_of_another_network_stays(node):
    assert node.add("p", name="other").ok
    assert node.call("GC").ok
    assert set(node.on_disk()) == {"p@eth0"}


def test_a_collection_past_its_deadline_is_not_executed(node):
    assert node.add("p").ok
    node.ask("GC", timeout=-1)
    node.live()
    assert set(node.on_disk()) == {"p@eth0"}


def test_an_intent_of_a_verb_that_leaves_none_is_set_aside(node):
    assert node.add("p").ok
    stem = node.ask("GC")
    (node.root / "intents" / f"{stem}.GC.json").rename(node.root / "intents" / f"{stem}.STATUS.json")
    node.live()
    assert set(node.on_disk()) == {"p@eth0"}
    assert (node.root / "quarantine" / f"{stem}.STATUS.json").exists()


@pytest.mark.expects_errors
def test_a_fault_while_a_fault_is_recorded_leaves_nobody_waiting(node):
    def no_buffers(*_):
        raise OSError(105, "No buffer space available")

    node.kernel.make_namespace("/ns/p")
    wiring = node.desk.steps._out.wiring
    wiring.wire = wiring.unwire = no_buffers
    stems = [node.ask("ADD", "p"), node.ask("CHECK", "p")]
    node.live(seconds=5)
    assert [node.answer(stem).ok for stem in stems] == [False, False]


def test_a_record_keeps_no_key_that_may_be_a_secret(node):
    node.kernel.make_namespace("/ns/p")
    assert node.add("p", headscale_auth_key="hskey-auth-abc").ok
    for file in node.root.rglob("*.json"):
        assert "hskey-auth-abc" not in file.read_text()
    assert json.loads((node.root / "attachments" / "p@eth0.json").read_text())["config"]["name"] == "net"
