"""`mesh-view.json`: round trips, the golden file, damage, the future; and the small mapping for `status.json`."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import orjson
import pytest
from mesh_views import NOT_APPROVED, SEEN, WELL, chain, found, linked, refusal, state, way

from reconciler.mesh.codes import Trouble
from reconciler.mesh.model import Holds, Link, View
from reconciler.mesh.viewfile import decode_view, encode_view, summary
from statemachine.attachment import Damaged, UnknownVersion

GOLDEN = (Path(__file__).parents[2] / "fixtures" / "golden" / "mesh-view-1.json").read_bytes()
SHOWN = replace(
    found(Trouble.CONTROL_LOST, "tailscaled has lost the control server", "see that Headscale runs"),
    chains=(NOT_APPROVED.chains[0], chain(WELL.chains[1].prefix, delivered=state(Holds.UNKNOWN))),
    ways=(*WELL.ways, way("10.244.4.0/24", "n4", online=False, routed=False, delivered=state(Holds.NO))),
)


def changed(**keys):
    return orjson.dumps({**orjson.loads(GOLDEN), **keys})


def test_the_golden_file_is_read_and_written_again():
    assert decode_view(GOLDEN) == SHOWN
    assert encode_view(SHOWN) == GOLDEN


@pytest.mark.parametrize("view", [WELL, NOT_APPROVED, SHOWN, View(written=SEEN, state="unreachable")])
def test_what_is_written_is_read(view):
    assert decode_view(encode_view(view)) == view


def test_keys_of_a_newer_writer_are_passed_over():
    body = orjson.loads(GOLDEN)
    body["weather"] = body["device"]["colour"] = body["ways"][0]["hops"] = "new"
    body["chains"][0]["links"]["blessed"] = {"holds": "perhaps"}
    body["findings"][0]["trouble"]["severity"] = body["chains"][0]["links"]["announced"]["seen_by"] = 3
    assert decode_view(orjson.dumps(body)) == SHOWN


def test_keys_that_may_be_missing_have_their_defaults():
    least = {"format": "headcni/mesh-view/1", "written": SEEN, "state": "Running", "chains": [], "ways": []}
    assert decode_view(orjson.dumps(least)) == View(written=SEEN, state="Running")


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "empty file"),
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"format": "headcni/status/1"}', "format is 'headcni/status/1'"),
        (changed(chains=None), "field missing or malformed"),
        (changed(ways=[{}]), "'prefix'"),
        (changed(written="yesterday"), "yesterday"),
        (changed(addresses=["100.64.0"]), "100.64.0"),
        (changed(chains=[{"prefix": "10.244.1.5/24", "links": {}}]), "host bits"),
        (changed(chains=[{"prefix": "10.244.1.0/24", "links": {}}]), "announced"),
    ],
)
def test_damage_is_told_as_such(raw, why):
    with pytest.raises(Damaged, match=why):
        decode_view(raw)


def test_a_newer_format_is_not_damage():
    with pytest.raises(UnknownVersion, match="knows up to"):
        decode_view(changed(format="headcni/mesh-view/2"))


def test_the_summary_of_what_is_well():
    assert summary(WELL) == {
        "state": "Running",
        "member": True,
        "seen": SEEN,
        "node_key": "nodekey:n1",
        "addresses": ["100.64.0.1", "fd7a:115c:a1e0::1"],
        "in_force": {"10.244.1.0/24": True, "fd00:244:1::/64": True},
        "missing": {},
        "findings": [],
        "peers": 3,
        "peers_online": 2,
        "ways": 3,
        "ways_reachable": 3,
        "ways_unreachable": 0,
    }


def test_the_summary_names_the_missing_link_and_what_was_found():
    said = summary(SHOWN)
    assert said["in_force"] == {"10.244.1.0/24": False, "fd00:244:1::/64": True}
    assert said["missing"] == {
        "10.244.1.0/24": {"code": 132, "what": "10.244.1.0/24 is not approved", "cure": "approve it"}
    }
    assert [each["code"] for each in said["findings"]] == [138]
    assert (said["ways"], said["ways_reachable"], said["ways_unreachable"]) == (4, 3, 1)


def test_what_breaks_a_prefix_that_is_in_force_is_in_the_summary_too():
    lost = refusal(Trouble.NOT_DELIVERED, "no packet from 10.244.1.0/24 was answered by n2")
    said = summary(linked(Link.DELIVERED, state(Holds.NO, lost)))
    assert said["missing"] == {}
    assert [each["code"] for each in said["findings"]] == [136]


def test_a_prefix_of_which_nothing_is_known_is_not_in_force():
    said = summary(linked(Link.SERVING, state(Holds.UNKNOWN)))
    assert said["missing"]["10.244.1.0/24"]["what"] == "it cannot be told yet"


@pytest.mark.parametrize(
    "view",
    [replace(WELL, state="Stopped"), replace(WELL, state="NoState"), found(Trouble.NODE_DELETED)],
    ids=lambda view: view.state,
)
def test_a_node_that_only_believes_itself_a_member_is_none(view):
    assert summary(view)["member"] is False


def test_pods_that_are_announced_one_by_one_do_not_swell_the_summary():
    pods = tuple(chain(ip_network(f"10.244.1.{host}/32")) for host in range(2, 9))
    lame = chain(ip_network("10.244.1.9/32"), serving=state(Holds.NO, refusal(Trouble.NOT_PRIMARY, "it is not sent")))
    assert summary(replace(WELL, chains=(*WELL.chains, *pods, lame))) == summary(WELL)
    assert summary(replace(WELL, chains=pods))["in_force"] == {"IPv4 pods": True}
    alone = summary(replace(WELL, chains=(*pods, lame)))
    assert alone["in_force"] == {"IPv4 pods": False}
    assert alone["missing"]["IPv4 pods"]["what"] == "it is not sent"


def test_everything_in_the_summary_is_plain():
    assert orjson.loads(orjson.dumps(summary(SHOWN))) == summary(SHOWN)
