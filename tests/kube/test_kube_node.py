"""What is wished of the Node: only what differs, only what is ours, readiness before everything else."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from reconciler.kube import objects
from reconciler.kube.node import HEARTBEAT, Aim, Truth, why_not, wishes
from reconciler.kube.ports import Patch
from tests.kube import samples

NOW = 1767225600.0
KEY = "nodekey:" + "ab" * 32
READY = Truth(
    pod_cidrs=(ip_network(samples.CIDR),),
    mesh="in force",
    version="0.1.0",
    node_key=KEY,
    tailnet_addresses=(ip_address("100.64.0.3"), ip_address("fd7a::3")),
)


def told(truth, node=None, now=NOW):
    return {change.aim: change for change in wishes(node or seen(), truth, now)}


def seen(**parts):
    return objects.node(samples.node(**parts))


def after(raw, changes):
    """The Node as an API server would have it then."""
    from fixtures.kube.fake_api import _apply_json, _merge

    for change in changes:
        if change.kind is Patch.JSON:
            assert _apply_json(raw, change.body) is None
        else:
            _merge(raw, change.body, by_type=change.kind is Patch.STRATEGIC)
    return objects.node(raw)


def test_a_ready_node_says_so_and_then_nothing_more():
    raw = samples.node(taints=[samples.OTHER_TAINT, samples.NOT_READY_TAINT])
    changes = wishes(objects.node(raw), READY, NOW)
    assert [change.aim for change in changes] == [Aim.ANNOTATIONS, Aim.CONDITION, Aim.TAINT]
    node = after(raw, changes)
    assert node.annotations == {
        "headcni.io/pod-cidr": samples.CIDR,
        "headcni.io/mesh": "in force",
        "headcni.io/version": "0.1.0",
        "headcni.io/tailnet-node-key": KEY,
        "headcni.io/tailnet-address": "100.64.0.3,fd7a::3",
    }
    condition = node.conditions["NetworkUnavailable"]
    assert (condition.status, condition.reason) == ("False", "HeadCNIIsUp")
    assert node.taints == (samples.OTHER_TAINT,)
    assert wishes(node, READY, NOW + 1) == []


def test_others_keep_what_is_theirs():
    raw = samples.node()
    after(raw, wishes(objects.node(raw), READY, NOW))
    assert raw["metadata"]["annotations"]["node.alpha.kubernetes.io/ttl"] == "0"
    assert [each["type"] for each in raw["status"]["conditions"]] == ["Ready", "NetworkUnavailable"]


def test_a_node_that_is_not_ready_says_why_and_keeps_its_taint():
    changes = told(replace(READY, not_ready="pool 10.244.1.0/24 is empty"), seen(taints=[samples.NOT_READY_TAINT]))
    assert Aim.TAINT not in changes
    condition = changes[Aim.CONDITION].body["status"]["conditions"][0]
    assert condition["status"] == "True"
    assert condition["reason"] == "HeadCNIIsNotReady"
    assert condition["message"] == "pool 10.244.1.0/24 is empty"


def test_the_taint_is_never_put_back():
    raw = samples.node()
    up = after(raw, wishes(objects.node(raw), READY, NOW))
    assert [change.aim for change in wishes(up, replace(READY, not_ready="broken"), NOW)] == [Aim.CONDITION]


def test_the_taint_is_removed_only_as_it_was_seen():
    twice = [samples.NOT_READY_TAINT, samples.OTHER_TAINT, {**samples.NOT_READY_TAINT, "effect": "NoExecute"}]
    body = told(READY, seen(taints=twice))[Aim.TAINT].body
    assert body == [
        {"op": "test", "path": "/spec/taints/2", "value": twice[2]},
        {"op": "remove", "path": "/spec/taints/2"},
        {"op": "test", "path": "/spec/taints/0", "value": twice[0]},
        {"op": "remove", "path": "/spec/taints/0"},
    ]


def up(heartbeat=NOW, message=f"HeadCNI serves pods of {samples.CIDR}", reason="HeadCNIIsUp"):
    condition = {
        "type": "NetworkUnavailable",
        "status": "False",
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": objects.timestamp(heartbeat),
        "lastTransitionTime": "2025-12-24T00:00:00Z",
    }
    return seen(conditions=[condition])


@pytest.mark.parametrize("age", [HEARTBEAT, -HEARTBEAT], ids=["old", "of a clock that jumped back"])
def test_what_did_not_change_is_said_again_after_a_while(age):
    assert Aim.CONDITION not in told(READY, up(NOW - age / 2))
    condition = told(READY, up(NOW - age))[Aim.CONDITION].body["status"]["conditions"][0]
    assert condition["lastHeartbeatTime"] == objects.timestamp(NOW)
    assert condition["lastTransitionTime"] == "2025-12-24T00:00:00Z"


def test_a_transition_is_dated():
    condition = told(replace(READY, not_ready="broken"), up())[Aim.CONDITION].body["status"]["conditions"][0]
    assert condition["lastTransitionTime"] == objects.timestamp(NOW)


def test_the_condition_of_somebody_else_is_corrected():
    """A cloud's route controller writes the same one."""
    assert Aim.CONDITION in told(READY, up(reason="NoRouteCreated"))


def test_the_mesh_holds_back_a_node_that_was_never_ready():
    waiting = replace(READY, not_yet="the mesh is not in force: not approved")
    changes = told(waiting, seen(taints=[samples.NOT_READY_TAINT]))
    assert Aim.TAINT not in changes
    assert changes[Aim.CONDITION].body["status"]["conditions"][0]["status"] == "True"


def test_a_mesh_that_is_lost_later_leaves_the_node_as_it_is():
    waiting = replace(READY, not_yet="the mesh is not in force: Headscale is away")
    assert why_not(up(), waiting) == ""
    assert Aim.CONDITION not in told(waiting, up())


ALONE = f"HeadCNI serves pods of {samples.CIDR}; they reach each other on this node only: the key is refused"
KEPT_OUT = replace(READY, not_yet="the key is refused", for_a_person=True)


def test_what_only_a_person_can_mend_is_not_waited_for_and_the_condition_says_why():
    raw = samples.node(taints=[samples.NOT_READY_TAINT])
    changes = wishes(objects.node(raw), replace(KEPT_OUT, mesh="not in force: the key is refused"), NOW)
    node = after(raw, changes)
    condition = node.conditions["NetworkUnavailable"]
    assert (condition.status, condition.reason, condition.message) == ("False", "HeadCNIIsUp", ALONE)
    assert node.taints == ()
    assert node.annotations["headcni.io/mesh"] == "not in force: the key is refused"


def test_pods_that_cannot_be_served_hold_it_back_all_the_same():
    assert why_not(seen(), replace(KEPT_OUT, not_ready="the pool is empty")) == "the pool is empty"


def test_a_node_that_began_without_the_mesh_says_so_until_the_mesh_is_there():
    def message(truth, node):
        return told(truth, node)[Aim.CONDITION].body["status"]["conditions"][0]["message"]

    joining = replace(READY, not_yet="the mesh is not in force: not approved")
    assert message(joining, up(message=ALONE)) == ALONE.replace(KEPT_OUT.not_yet, joining.not_yet)
    assert message(READY, up(message=ALONE)) == f"HeadCNI serves pods of {samples.CIDR}"


def test_a_node_that_was_up_before_says_that_it_is_alone_and_stays_up():
    change = told(KEPT_OUT, up())[Aim.CONDITION]
    condition = change.body["status"]["conditions"][0]
    assert (condition["status"], condition["message"]) == ("False", ALONE)
    assert condition["lastTransitionTime"] == "2025-12-24T00:00:00Z"
    assert not change.turns


def test_of_what_is_not_known_yet_nothing_is_said():
    """A daemon that has just begun must not take away by what the approver knows its node."""
    node = seen(annotations={"headcni.io/tailnet-node-key": KEY, "headcni.io/mesh": "in force"})
    body = told(replace(READY, mesh=None, node_key=None, tailnet_addresses=None), node)[Aim.ANNOTATIONS].body
    assert body["metadata"]["annotations"] == {"headcni.io/pod-cidr": samples.CIDR, "headcni.io/version": "0.1.0"}


def test_what_is_known_to_be_no_more_is_removed():
    node = seen(annotations={"headcni.io/tailnet-node-key": KEY})
    body = told(replace(READY, node_key="", tailnet_addresses=()), node)[Aim.ANNOTATIONS].body
    assert body["metadata"]["annotations"]["headcni.io/tailnet-node-key"] is None
    assert "headcni.io/tailnet-address" not in body["metadata"]["annotations"]
