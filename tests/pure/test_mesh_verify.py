"""The chain of a prefix, link by link, from every kind of evidence."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble
from reconciler.mesh.findings import dated, findings
from reconciler.mesh.model import (
    ControlNode,
    Device,
    Holds,
    KernelView,
    Link,
    Peer,
    Prefs,
    Report,
    Sight,
    Tailnet,
)
from reconciler.mesh.verify import Delivery, Seen, judge

OWN = ip_network("10.244.1.0/24")
OTHER = ip_network("10.244.2.0/24")
CLUSTER = ip_network("10.244.0.0/16")
YES, NO, UNKNOWN = Holds.YES, Holds.NO, Holds.UNKNOWN
ME = Peer("nodekey:me", name="n1", addresses=(ip_address("100.64.0.1"),), online=True)
N2 = Peer("nodekey:n2", name="n2", addresses=(ip_address("100.64.0.2"),), routes=frozenset({OTHER}), online=True)
NET = Tailnet("1.102.3", "Running", True, True, "", (), ME, {N2.key: N2})
ANNOUNCING = Prefs(advertise=("192.168.9.0/24", str(OWN)))
DEVICE = KernelView(Device("tailscale0", 7, 1280), frozenset({OTHER}))
SEEN = Seen(at=1000.0, wall=5e9, tailnet=NET, prefs=ANNOUNCING, kernel=DEVICE)
DOWN = Refusal(Trouble.TAILSCALED_UNREACHABLE, "no socket", "start it")
CURE = "let it be approved"


def report(at=999.0, name="n2", accepted=True, routed=True, instead="", announces=(OTHER,), accepts_routes=True):
    return Report(at, name, {OWN: Sight(accepted, routed, instead)}, announces, accepts_routes)


def mine(**routes):
    return ControlNode("1", "n1", ME.key, online=True, **{name: frozenset(nets) for name, nets in routes.items()})


def links(seen):
    chain = judge(OWN, seen, None, CURE)
    return tuple(chain.links[link].holds for link in Link)


def test_nothing_is_taken_for_good_without_a_claim():
    assert links(SEEN) == (YES, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)
    chain = judge(OWN, SEEN, None, CURE)
    assert not chain.in_force
    assert "nobody could be asked" in chain.missing.msg


def test_a_witness_proves_all_that_comes_before_it():
    seen = replace(SEEN, reports={"n2": report()}, prefs=DOWN)
    assert links(seen) == (YES, YES, YES, YES, UNKNOWN)
    assert judge(OWN, seen, None, CURE).in_force
    assert judge(OWN, seen, None, CURE).missing is None


def test_a_witness_that_fell_silent_proves_nothing():
    assert links(replace(SEEN, reports={"n2": report(at=990.0)})) == (YES, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)


def test_a_prefix_that_is_not_announced_says_so_first():
    chain = judge(OWN, replace(SEEN, prefs=Prefs(), reports={"n2": report(accepted=False)}), None, CURE)
    assert chain.links[Link.ANNOUNCED].holds is NO
    assert chain.missing.code == Trouble.NOT_ANNOUNCED


def test_a_prefix_that_no_witness_is_sent_is_most_likely_not_approved():
    chain = judge(OWN, replace(SEEN, reports={"n2": report(accepted=False)}), None, CURE)
    assert chain.links[Link.APPROVED].holds is UNKNOWN
    assert chain.links[Link.SERVING].holds is NO
    assert (chain.missing.code, chain.missing.details) == (Trouble.NOT_APPROVED, CURE)


@pytest.mark.parametrize(
    ("routes", "expected", "code"),
    [
        ({"announced": {OWN}}, (YES, NO, NO), Trouble.NOT_APPROVED),
        ({"announced": {OWN}, "approved": {OWN}}, (YES, YES, NO), Trouble.NOT_SERVED),
        ({"announced": {OWN}, "approved": {OWN}, "primary": {OWN}}, (YES, YES, YES), None),
        ({"announced": {OWN}, "approved": {OTHER}}, (YES, NO, NO), Trouble.NOT_APPROVED),
    ],
)
def test_headscale_tells_the_links_apart(routes, expected, code):
    chain = judge(OWN, replace(SEEN, control=(mine(**routes),), control_at=999.0), None, CURE)
    assert tuple(chain.links[link].holds for link in list(Link)[:3]) == expected
    assert (chain.missing.code if chain.missing else None) == code


def test_it_is_named_who_is_sent_the_prefix_instead():
    rival = ControlNode("9", "n9", "nodekey:n9", primary=frozenset({OWN}))
    chain = judge(OWN, replace(SEEN, control=(mine(approved={OWN}), rival), control_at=999.0), None, CURE)
    assert "n9" in chain.missing.msg
    witnessed = judge(OWN, replace(SEEN, reports={"n2": report(accepted=False, instead="n9")}), None, CURE)
    assert "n9" in witnessed.links[Link.SERVING].trouble.msg
    assert witnessed.missing.code == Trouble.NOT_PRIMARY


def test_a_no_of_one_witness_is_not_the_no_of_all():
    hidden = report(at=999.9, name="n3", accepted=False)
    seen = replace(SEEN, reports={"n2": report(at=999.0), "n3": hidden})
    assert links(seen)[:4] == (YES, YES, YES, YES)


def test_what_is_served_and_shown_to_no_witness_is_hidden_by_policy():
    seen = replace(SEEN, control=(mine(approved={OWN}, primary={OWN}),), control_at=999.0, doubted_at=998.0)
    chain = judge(OWN, replace(seen, reports={"n2": report(at=999.5, accepted=False)}), None, CURE)
    assert chain.in_force
    assert chain.links[Link.ACCEPTED].trouble.code == Trouble.HIDDEN


@pytest.mark.parametrize("said", [report(routed=False, accepts_routes=False), report(routed=False)])
def test_a_witness_that_is_sent_the_prefix_but_does_not_route_to_it(said):
    chain = judge(OWN, replace(SEEN, reports={"n2": said}), None, CURE)
    assert chain.links[Link.ACCEPTED].trouble.code == Trouble.NOT_ACCEPTED


def test_a_doubt_makes_newer_claims_count_alone():
    seen = replace(SEEN, control=(mine(approved={OWN}, primary={OWN}),), control_at=990.0)
    seen = replace(seen, reports={"n2": report(at=999.0, accepted=False)})
    assert links(seen)[2] is YES
    assert links(replace(seen, doubted_at=995.0))[2] is NO


def test_who_asked_the_control_server_is_believed_before_a_witness():
    """The witness may have been cut off from it, in silence, minutes ago."""
    seen = replace(SEEN, doubted_at=995.0, reports={"n2": report(at=999.9)})
    control = (mine(announced={OWN}),)
    assert links(replace(seen, control=control, control_at=999.0))[2] is NO
    assert links(replace(seen, refreshed_primary=frozenset(), refreshed_at=996.0))[2] is NO
    assert links(replace(seen, refreshed_primary=frozenset(), refreshed_at=994.0))[2] is YES


def test_who_is_sent_the_prefix_instead_may_be_offline():
    rival = ControlNode("9", "n9", "nodekey:n9", primary=frozenset({OWN}), online=False)
    chain = judge(OWN, replace(SEEN, control=(mine(approved={OWN}), rival), control_at=999.0), None, CURE)
    assert "n9, which is offline" in chain.missing.msg


def test_a_witness_that_lacks_the_prefix_is_named_beside_those_that_have_it():
    seen = replace(SEEN, reports={"n2": report(), "n3": report(name="n3", accepted=False)})
    state = judge(OWN, seen, None, CURE).links[Link.ACCEPTED]
    assert (state.holds, state.trouble.code) == (YES, Trouble.HIDDEN)
    assert "n3" in state.trouble.msg
    assert "n2" not in state.trouble.msg


def test_until_a_newer_claim_is_there_the_older_one_holds():
    seen = replace(SEEN, reports={"n2": report(at=994.0)}, doubted_at=999.0)
    assert links(seen)[2] is YES


def test_a_refresh_is_a_claim_like_the_others():
    assert links(replace(SEEN, refreshed_primary=frozenset({OWN}), refreshed_at=900.0))[:3] == (YES, YES, YES)
    assert links(replace(SEEN, refreshed_primary=frozenset(), refreshed_at=900.0))[:3] == (YES, UNKNOWN, NO)


def test_an_old_list_of_headscale_is_no_evidence():
    seen = replace(SEEN, control=(mine(approved={OWN}, primary={OWN}),), control_at=300.0)
    assert links(seen)[:3] == (YES, UNKNOWN, UNKNOWN)


# --- cut off


def test_without_a_tunnel_nothing_is_served_whatever_was_said():
    seen = replace(SEEN, tailnet=DOWN, prefs=DOWN, kernel=KernelView(), reports={"n2": report()})
    chain = judge(OWN, seen, None, CURE)
    assert links(seen)[:3] == (UNKNOWN, UNKNOWN, NO)
    assert chain.missing == DOWN


def test_a_mute_tailscaled_whose_tunnel_stands_is_judged_by_witnesses():
    assert links(replace(SEEN, tailnet=DOWN, prefs=DOWN, reports={"n2": report()}))[:3] == (YES, YES, YES)


def test_who_is_no_member_serves_nothing():
    expired = Refusal(Trouble.KEY_EXPIRED, "the key has expired", "renew it")
    chain = judge(OWN, replace(SEEN, unjoined=expired, reports={"n2": report()}), None, CURE)
    assert chain.missing == expired


# --- delivered, since


def test_one_answered_probe_proves_delivery_and_the_lost_ones_are_named():
    deliveries = {OWN: (Delivery("n2", True, 1.25), Delivery("n3", False, why="no answer"))}
    state = judge(OWN, replace(SEEN, deliveries=deliveries), None, CURE).links[Link.DELIVERED]
    assert (state.holds, state.evidence) == (YES, "n2 answered in 1.2 ms; not n3")
    deliveries = {OWN: (Delivery("n2", False, why="no answer"), Delivery("n3", False, why="no route"))}
    state = judge(OWN, replace(SEEN, deliveries=deliveries), None, CURE).links[Link.DELIVERED]
    assert (state.holds, state.trouble.code) == (NO, Trouble.NOT_DELIVERED)
    assert "no route" in state.trouble.msg


def test_since_is_when_a_link_came_to_hold_or_not():
    first = judge(OWN, SEEN, None, CURE)
    later = judge(OWN, replace(SEEN, wall=5e9 + 60), first, CURE)
    assert later.links[Link.ANNOUNCED].since == 5e9
    proven = judge(OWN, replace(SEEN, wall=5e9 + 90, reports={"n2": report()}), later, CURE)
    assert (proven.links[Link.ANNOUNCED].since, proven.links[Link.SERVING].since) == (5e9, 5e9 + 90)


# --- findings


def codes(seen, mtu=0):
    return [finding.trouble.code for finding in findings(seen, (OWN,), (CLUSTER,), mtu)]


def with_peer(*routes):
    peer = Peer("nodekey:n9", name="n9", routes=frozenset(map(ip_network, routes)), online=True)
    return replace(SEEN, tailnet=replace(NET, peers={peer.key: peer}))


def test_a_healthy_node_has_no_findings():
    assert codes(SEEN) == []


@pytest.mark.parametrize("theirs", ["10.244.1.0/24", "10.244.0.0/16", "10.0.0.0/8", "10.244.1.128/25"])
def test_who_is_sent_the_same_or_a_covering_prefix_is_named(theirs):
    (finding,) = findings(with_peer(theirs), (OWN,), (CLUSTER,), 0)
    assert finding.trouble.code == Trouble.CIDR_CONFLICT
    assert "n9" in finding.trouble.msg
    assert theirs in finding.trouble.msg


@pytest.mark.parametrize("theirs", ["10.244.7.0/24", "0.0.0.0/0", "::/0", "192.168.0.0/24", "fd00::/64"])
def test_other_routes_of_others_are_no_conflict(theirs):
    assert codes(with_peer(theirs)) == []


def test_a_twin_is_named_by_what_it_announces_before_anybody_is_sent_it():
    assert codes(replace(SEEN, reports={"n9": report(name="n9", announces=(OWN,))})) == [Trouble.CIDR_CONFLICT]
    twin = ControlNode("9", "n9", "nodekey:n9", announced=frozenset({OWN}))
    assert codes(replace(SEEN, control=(mine(announced={OWN}), twin), control_at=999.0)) == [Trouble.CIDR_CONFLICT]


def test_a_lost_control_server_an_mtu_and_a_filter_are_found():
    assert codes(replace(SEEN, offline_for=4.0)) == [Trouble.CONTROL_LOST]
    assert codes(replace(SEEN, offline_for=1.0)) == []
    assert codes(SEEN, mtu=1420) == [Trouble.MTU]
    assert codes(SEEN, mtu=1280) == []
    dropping = replace(SEEN, kernel=replace(DEVICE, forward_drops=True))
    assert codes(replace(dropping, prefs=Prefs(raw={"NetfilterMode": 0}))) == [Trouble.FILTER]
    assert codes(replace(dropping, prefs=Prefs(raw={"NetfilterMode": 2}))) == []


def test_a_finding_keeps_the_time_it_was_first_made():
    first = dated(findings(SEEN, (OWN,), (CLUSTER,), 1420), (), 100.0)
    assert dated(findings(SEEN, (OWN,), (CLUSTER,), 1420), first, 200.0)[0].since == 100.0


def test_what_was_in_force_stays_so_while_nobody_can_change_it():
    """The control server is away, and the witnesses, who lost it too, do not testify."""
    proven = judge(OWN, replace(SEEN, reports={"n2": report()}), None, CURE)
    lost = replace(SEEN, tailnet=replace(NET, me=replace(ME, online=False)), at=2000.0)
    assert judge(OWN, lost, proven, CURE).in_force
    assert not judge(OWN, lost, judge(OWN, SEEN, None, CURE), CURE).in_force
    assert not judge(OWN, replace(SEEN, at=2000.0), proven, CURE).in_force
