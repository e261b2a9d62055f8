"""Merging our prefixes into a node's list, and the requests of both kinds of generation, without a server."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.mesh.control.approvals import APPROVALS, merged
from reconciler.mesh.control.backend import Wish
from reconciler.mesh.control.rows import MACHINES, NODES
from reconciler.mesh.control.shapes import Unexpected, prefixes
from reconciler.mesh.model import ControlNode

OURS = [ip_network(f"10.244.{n}.0/24") for n in range(4)] + [ip_network(f"fd00:10:244:{n}::/64") for n in range(3)]
FOREIGN = ["0.0.0.0/0", "::/0", "192.168.1.0/24", "10.244.1.7/24", "fd00::/8", "not a prefix", "::ffff:1.2.3.0/120"]

ours = st.sets(st.sampled_from(OURS))
lists = st.lists(st.sampled_from([*map(str, OURS), *FOREIGN]), unique=True)


@given(lists, ours, ours)
def test_ours_are_as_wished_and_all_others_are_as_they_were(approved, wanted, unwanted):
    becomes = merged(approved, wanted, unwanted)
    assert prefixes(becomes) == (prefixes(approved) - unwanted) | wanted
    untouched = [text for text in approved if not prefixes([text]) & (wanted | unwanted)]
    assert [text for text in becomes if text in untouched] == untouched
    assert len(set(becomes)) == len(becomes)


@given(lists, ours, ours)
def test_a_second_time_changes_nothing(approved, wanted, unwanted):
    once = merged(approved, wanted, unwanted)
    assert merged(once, wanted, unwanted) == once


@given(lists)
def test_without_a_wish_nothing_changes(approved):
    assert merged(approved, (), ()) == tuple(approved)


def test_what_is_written_is_masked_and_of_one_text_each():
    assert merged(["10.244.1.7/24"], {OURS[1]}, ()) == ("10.244.1.7/24", "10.244.1.0/24")
    assert merged(["a", "a"], (), ()) == ("a",)


# --- requests

KEY = "nodekey:" + "ab" * 32


def listed(approved, **more):
    node = {"id": "7", "nodeKey": KEY, "ipAddresses": ["100.64.0.7", "?"], "givenName": "w", "name": "W", **more}
    return {**node, "approvedRoutes": approved, "availableRoutes": [], "subnetRoutes": []}


def entry(approved):
    return APPROVALS.entries([{"nodes": [listed(approved)]}])[0]


@given(lists, ours, ours)
def test_a_list_is_written_whole_under_the_one_field_headscale_knows(approved, wanted, unwanted):
    found = entry(approved)
    posts = found.posts(Wish(found.node, frozenset(wanted), frozenset(unwanted)))
    if not posts:
        assert prefixes(approved) >= wanted
        assert not prefixes(approved) & (unwanted - wanted)
        return
    (post,) = posts
    assert post.path == "/api/v1/node/7/approve_routes"
    assert post.body == {"routes": list(merged(approved, wanted, unwanted))}


rows = st.lists(
    st.tuples(
        st.sampled_from([*map(str, OURS), "0.0.0.0/0", "10.244.1.7/24"]), st.booleans(), st.booleans(), st.booleans()
    ),
    unique_by=lambda row: row[0],
)


@pytest.mark.parametrize("backend", [MACHINES, NODES], ids=str)
@given(rows=rows, wanted=ours, unwanted=ours)
def test_rows_are_switched_until_the_wish_is_true_and_no_others(backend, rows, wanted, unwanted):
    """Applied to the rows as Headscale would, nothing is left to do but what is not announced."""
    before = {number: list(row) for number, row in enumerate(rows, 1)}
    found = rows_entry(backend, before)
    wish = Wish(found.node, frozenset(wanted), frozenset(unwanted))
    after = {number: list(row) for number, row in before.items()}
    for post in found.posts(wish):
        _, _, number, verb = post.path.removeprefix("/api/").split("/")
        assert post.body is None
        after[int(number)][2] = verb == "enable"
    left = rows_entry(backend, after)
    assert left.posts(wish) == ()
    announced = {row[0] for row in rows if row[1]}
    missing = {str(each) for each in wanted} - announced
    refusal = left.refusal(wish)
    assert (refusal is None) == (not missing)
    assert all(each in refusal.msg for each in missing)
    touched = {str(each) for each in wanted | unwanted}
    assert all(before[number] == row for number, row in after.items() if row[0] not in touched)


def rows_entry(backend, rows):
    node = {"id": "7", "nodeKey": KEY.removeprefix("nodekey:"), "ipAddresses": [], "name": "w"}
    routes = [
        {
            "id": str(number),
            backend.word: {"id": "7"},
            "prefix": prefix,
            "advertised": advertised,
            "enabled": enabled,
            "isPrimary": primary,
        }
        for number, (prefix, advertised, enabled, primary) in rows.items()
    ]
    return backend.entries([{f"{backend.word}s": [node]}, {"routes": routes}])[0]


# --- shapes


def test_a_node_of_each_generation_is_the_same_value():
    new = APPROVALS.entries([{"nodes": [listed([], user={"name": "pods"}, online=True, tags=["tag:k8s"])]}])[0].node
    old = {"id": "7", "nodeKey": KEY.removeprefix("nodekey:"), "ipAddresses": ["100.64.0.7"], "givenName": "w"}
    old |= {"user": {"name": "pods"}, "online": True, "forcedTags": ["tag:k8s"], "validTags": [], "invalidTags": ["x"]}
    assert MACHINES.entries([{"machines": [old]}, {"routes": []}])[0].node == new
    assert NODES.entries([{"nodes": [{**old, "nodeKey": KEY}]}, {"routes": []}])[0].node == new


@pytest.mark.parametrize("key", ["", "nodekey:" + "0" * 64])
def test_a_node_without_a_key_is_listed_and_has_none(key):
    assert APPROVALS.entries([{"nodes": [listed([], nodeKey=key)]}])[0].node.key == ""


def test_a_node_may_have_less_than_we_would_like():
    least = {
        "id": 7,
        "nodeKey": KEY,
        "ipAddresses": [],
        "approvedRoutes": [],
        "availableRoutes": [],
        "subnetRoutes": [],
    }
    assert APPROVALS.entries([{"nodes": [{**least, "user": None, "tags": None}]}])[0].node == ControlNode("7", "", KEY)


@pytest.mark.parametrize(
    "nodes",
    [
        None,
        {},
        [1],
        [listed(None)],
        [listed([1])],
        [listed([], id="7/../8")],
        [listed([], id=None)],
        [listed([], nodeKey=None)],
        [listed([], ipAddresses="100.64.0.1")],
    ],
    ids=str,
)
def test_what_has_not_the_form_is_not_guessed_at(nodes):
    with pytest.raises(Unexpected) as caught:
        APPROVALS.entries([{"nodes": nodes}])
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("answer", [None, [], "text", {"machines": []}])
def test_an_answer_of_something_else(answer):
    with pytest.raises(Unexpected):
        APPROVALS.entries([answer])
    with pytest.raises(Unexpected):
        NODES.entries([answer, {"routes": []}])


@pytest.mark.parametrize("route", [{}, {"id": "1", "prefix": "10.0.0.0/8"}, {"id": "1", "node": {"id": "7"}}, 7])
def test_a_route_without_owner_or_prefix(route):
    with pytest.raises(Unexpected):
        NODES.entries([{"nodes": []}, {"routes": [route]}])
