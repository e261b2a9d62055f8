"""Whom the approver approves what: only what the cluster gave, only to whom cannot pretend to be another."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.spec import Code
from reconciler.mesh.approve import Identity, Mark, Member, decide
from reconciler.mesh.codes import Trouble
from reconciler.mesh.model import ControlNode
from reconciler.mesh.networks import covers

CLUSTER = (ip_network("10.244.0.0/16"), ip_network("fd00:10:244::/48"))


def nets(*texts):
    return frozenset(map(ip_network, texts))


def node(number, announced=(), approved=(), name="", key=""):
    return ControlNode(
        id=str(number),
        name=name or f"worker-{number}",
        key=key or f"nodekey:{number:064x}",
        addresses=(ip_address(f"100.64.0.{number}"), ip_address(f"fd7a:115c:a1e0::{number:x}")),
        announced=nets(*announced),
        approved=nets(*approved),
    )


def member(number, *cidrs, mark=Mark.ADDRESS, value=""):
    default = {Mark.ADDRESS: f"100.64.0.{number}", Mark.NODE_KEY: f"nodekey:{number:064x}", Mark.ID: str(number)}
    cidrs = cidrs or (f"10.244.{number}.0/24",)
    return Member(f"worker-{number}", tuple(map(ip_network, cidrs)), Identity(mark, value or default[mark]))


def todo(members, nodes):
    return {each.member.name: (each.approves, each.revokes) for each in decide(CLUSTER, members, nodes).todo}


def codes(members, nodes):
    return sorted(int(each.trouble.code) for each in decide(CLUSTER, members, nodes).problems)


def told(members, nodes):
    return " | ".join(str(each.trouble) for each in decide(CLUSTER, members, nodes).problems)


@pytest.mark.parametrize(
    ("mark", "value"),
    [(Mark.ADDRESS, ""), (Mark.ADDRESS, "fd7a:115c:a1e0::1"), (Mark.NODE_KEY, ""), (Mark.ID, "")],
)
def test_a_node_is_known_by_each_mark_that_it_cannot_choose(mark, value):
    found = todo([member(1, mark=mark, value=value)], [node(1, ["10.244.1.0/24"]), node(2)])
    assert found == {"worker-1": (nets("10.244.1.0/24"), frozenset())}


def test_who_takes_the_name_of_a_node_gets_nothing():
    thief = node(66, ["10.244.1.0/24"], name="worker-1")
    found = decide(CLUSTER, [member(1)], [thief, node(1)])
    assert found.todo == ()
    assert {each.trouble.code for each in found.problems} == {Trouble.CIDR_CONFLICT, Trouble.NOT_ANNOUNCED}


def test_approved_is_what_is_announced_and_given_and_nothing_else():
    announced = ["10.244.1.0/24", "10.244.1.7/32", "fd00:10:244:1::/64", "fd00:10:244:1::7/128"]
    more = ["10.244.1.0/25", "10.244.2.0/24", "10.244.0.0/16", "10.0.0.0/8", "192.168.0.0/24", "0.0.0.0/0", "::/0"]
    given_ = member(1, "10.244.1.0/24", "fd00:10:244:1::/64", "fd00:10:244:9::/64")
    assert todo([given_], [node(1, announced + more)]) == {"worker-1": (nets(*announced), frozenset())}


def test_stale_ones_in_the_cluster_are_revoked_and_nothing_outside_it():
    """Own: the CIDR, and what is in it, whoever approved that. Covering the cluster is outside of it."""
    stale = ["10.244.9.0/24", "10.244.0.0/16", "10.244.9.7/32", "fd00:10:244:9::/64"]
    left = ["10.244.1.0/24", "10.244.1.128/25", "10.244.1.7/32", "192.168.0.0/24", "10.0.0.0/8", "0.0.0.0/0", "::/0"]
    assert todo([member(1)], [node(1, ["10.244.1.0/24"], stale + left)]) == {"worker-1": (frozenset(), nets(*stale))}


def test_where_all_is_as_it_should_be_nothing_is_done():
    found = decide(CLUSTER, [member(1)], [node(1, ["10.244.1.0/24", "0.0.0.0/0"], ["10.244.1.0/24"])])
    assert found.todo == ()
    assert found.problems == ()
    assert not found.waiting


def test_a_node_whose_cidr_is_not_known_yet_loses_nothing():
    none_yet = Member("worker-1", (), Identity(Mark.ID, "1"))
    assert todo([none_yet], [node(1, ["10.244.1.0/24"], ["10.244.1.0/24"])]) == {}


def test_a_node_that_is_no_member_is_never_touched():
    assert todo([], [node(1, ["10.244.1.0/24"], ["10.244.1.0/24", "10.244.7.0/24"])]) == {}


# --- the node list contradicts itself


def test_two_nodes_with_overlapping_cidrs_keep_what_they_have_and_get_no_more():
    members = [member(1, "10.244.0.0/23"), member(2, "10.244.1.0/24"), member(3)]
    nodes = [
        node(1, ["10.244.0.0/23"], ["10.244.0.0/23", "10.244.9.0/24"]),
        node(2, ["10.244.1.0/24"]),
        node(3, ["10.244.3.0/24"]),
    ]
    assert todo(members, nodes) == {
        "worker-1": (frozenset(), nets("10.244.9.0/24")),
        "worker-3": (nets("10.244.3.0/24"), frozenset()),
    }
    assert codes(members, nodes) == [Trouble.CIDR_CONFLICT]
    for word in ("worker-1", "10.244.0.0/23", "worker-2", "10.244.1.0/24"):
        assert word in told(members, nodes)


def test_a_cidr_outside_the_cluster_is_told_and_the_other_approved():
    members = [member(1, "10.99.1.0/24", "fd00:10:244:1::/64")]
    nodes = [node(1, ["10.99.1.0/24", "fd00:10:244:1::/64"], ["10.99.1.0/24"])]
    assert todo(members, nodes) == {"worker-1": (nets("fd00:10:244:1::/64"), frozenset())}
    assert codes(members, nodes) == [Code.INVALID_CONFIGURATION]
    assert "10.99.1.0/24" in told(members, nodes)
    assert "10.244.0.0/16" in told(members, nodes)


def test_a_node_that_is_not_in_the_tailnet():
    found = decide(CLUSTER, [member(1), member(2)], [node(2, ["10.244.2.0/24"])])
    assert [each.member.name for each in found.todo] == ["worker-2"]
    assert [each.trouble.code for each in found.problems] == [Trouble.NOT_JOINED]
    assert "address 100.64.0.1" in found.problems[0].trouble.msg
    assert found.waiting


def test_a_node_that_does_not_announce():
    found = decide(CLUSTER, [member(1)], [node(1)])
    assert [each.trouble.code for each in found.problems] == [Trouble.NOT_ANNOUNCED]
    assert found.waiting


def test_a_node_that_announces_single_addresses_does_announce():
    found = decide(CLUSTER, [member(1)], [node(1, ["10.244.1.7/32"])])
    assert found.problems == ()


def test_an_identity_of_two_nodes():
    twins = [node(1, ["10.244.1.0/24"]), node(2, ["10.244.1.0/24"], key=f"nodekey:{1:064x}")]
    members = [member(1, mark=Mark.NODE_KEY)]
    assert todo(members, twins) == {}
    assert Code.INVALID_CONFIGURATION in codes(members, twins)
    assert "ids 1, 2" in told(members, twins)


@pytest.mark.parametrize("mark", [Mark.ID, Mark.ADDRESS])
def test_two_entries_for_one_node(mark):
    """By the same mark or by another one: which of them is wrong nobody can tell."""
    members = [member(1), member(2, mark=mark, value="1" if mark is Mark.ID else "100.64.0.1")]
    nodes = [node(1, ["10.244.1.0/24", "10.244.2.0/24"], ["10.244.7.0/24"])]
    assert todo(members, nodes) == {}
    assert codes(members, nodes).count(Code.INVALID_CONFIGURATION) == 2


@pytest.mark.parametrize("announced", ["10.244.1.0/24", "10.0.0.0/8", "10.244.1.7/32", "10.244.0.0/16"])
def test_a_stranger_that_announces_pods_is_named(announced):
    stranger = node(66, [announced, "0.0.0.0/0", "192.168.1.0/24"], [announced], name="laptop")
    found = decide(CLUSTER, [], [stranger])
    assert found.todo == ()
    (problem,) = found.problems
    assert problem.trouble.code == Trouble.CIDR_CONFLICT
    for word in ("laptop", "node 66", announced, "is approved"):
        assert word in problem.trouble.msg


def test_a_member_that_announces_what_is_anothers_is_named():
    members = [member(1), member(2)]
    nodes = [node(1, ["10.244.1.0/24", "10.244.2.0/24"]), node(2, ["10.244.2.0/24"])]
    assert set(todo(members, nodes)) == {"worker-1", "worker-2"}
    assert todo(members, nodes)["worker-1"] == (nets("10.244.1.0/24"), frozenset())
    assert "worker-1 (node 1) announces 10.244.2.0/24" in told(members, nodes)


def test_the_keys_of_problems_tell_them_apart_and_stay():
    members = [member(1), member(2, "10.99.0.0/24"), member(3, "10.244.1.0/24")]
    nodes = [node(2, ["10.244.5.0/24", "10.244.6.0/24"])]
    keys = [each.key for each in decide(CLUSTER, members, nodes).problems]
    assert len(keys) == len(set(keys))
    assert keys == [each.key for each in decide(CLUSTER, members, nodes).problems]


# --- whatever the list and the tailnet hold

CIDRS = [f"10.244.{n}.0/24" for n in range(4)] + ["10.244.0.0/23", "10.99.0.0/24", "fd00:10:244:1::/64"]
PREFIXES = [*CIDRS, "10.244.1.7/32", "10.244.2.128/25", "10.244.0.0/16", "10.0.0.0/8", "0.0.0.0/0", "192.168.0.0/24"]
NODES = st.lists(
    st.builds(
        node,
        st.integers(1, 4),
        st.lists(st.sampled_from(PREFIXES), unique=True),
        st.lists(st.sampled_from(PREFIXES), unique=True),
    ),
    max_size=4,
    unique_by=lambda each: each.id,
)
MEMBERS = st.lists(
    st.builds(
        lambda number, cidrs, mark: Member(
            f"worker-{number}", tuple(map(ip_network, cidrs)), member(number, mark=mark).identity
        ),
        st.integers(1, 5),
        st.lists(st.sampled_from(CIDRS), max_size=2, unique=True),
        st.sampled_from(Mark),
    ),
    max_size=4,
    unique_by=lambda each: each.name,
)


@given(MEMBERS, NODES)
def test_no_prefix_is_approved_for_two_nor_without_being_announced_and_given(members, nodes):
    owners = {}
    for each in decide(CLUSTER, members, nodes).todo:
        for prefix in each.approves:
            assert prefix in each.wish.node.announced
            assert any(covers(cidr, prefix) for cidr in each.member.pod_cidrs)
            assert any(covers(cidr, prefix) for cidr in CLUSTER)
            assert owners.setdefault(prefix, each.member) is each.member
        for prefix in each.revokes:
            assert any(covers(cidr, prefix) for cidr in CLUSTER)
            assert not any(covers(cidr, prefix) for cidr in each.member.pod_cidrs)


@given(MEMBERS, NODES)
def test_when_it_is_done_nothing_is_left_to_do(members, nodes):
    by_id = {each.id: each for each in nodes}
    for each in decide(CLUSTER, members, nodes).todo:
        now = by_id[each.wish.node.id]
        approved = [str(prefix) for prefix in (now.approved | each.approves) - each.revokes]
        by_id[now.id] = node(int(now.id), map(str, now.announced), approved)
    assert decide(CLUSTER, members, list(by_id.values())).todo == ()
