"""What breaks in a mesh that stood is told for what it is, and mended, each repair as often as its budget allows."""

from __future__ import annotations

import asyncio
import itertools
from ipaddress import ip_address, ip_network

import pytest

from fixtures.headscale import GENERATIONS
from fixtures.meshsim import CLUSTER, FOREIGN, OWN, MeshSim, play, wired
from reconciler.mesh.codes import Trouble
from reconciler.mesh.model import Holds, Link
from reconciler.mesh.repair import PATIENCE

BATCH = 1.0
OTHERS = ("10.244.2.0/24", "fd00:10:244:2::/64")


def edits(sim: MeshSim) -> int:
    return sim.tailscaled.calls.count("PATCH prefs")


def refreshes(sim: MeshSim) -> int:
    return sim.tailscaled.calls.count("POST start")


def done(sim: MeshSim, word: str) -> int:
    return sum(word in each for each in sim.view.log)


# --- approval


@pytest.mark.parametrize("generation", GENERATIONS)
def test_an_unapproval_is_healed_with_the_key(tmp_path, generation):
    async def story(sim):
        sim.headscale.batch = BATCH
        sim.join()
        sim.start()
        await sim.until_calm()
        sim.node.approve(FOREIGN[0])
        sim.node.disapprove(OWN[0])
        await sim.until(lambda: OWN[0] in sim.node.serving, 2 * BATCH, "approved again")
        await sim.until(lambda: sim.in_force and not sim.troubles(), 3, "and known")
        assert FOREIGN[0] in sim.headscale.tailnet.approved(sim.node.number), "what others approved stays"

    play(tmp_path, story, approval="key", generation=generation)


def test_an_unapproval_with_a_policy_is_healed_by_announcing_again_three_times_at_most(tmp_path):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        sim.node.disapprove(OWN[0])
        await sim.until(lambda: not sim.in_force, 5, "it is seen")
        assert await sim.until(lambda: OWN[0] in sim.node.serving, 60, "approved again") > PATIENCE - 5
        await sim.until_in_force()
        assert done(sim, "announce again") == 1

        sim.node.approve_by_policy()
        sim.node.disapprove(*OWN)
        await sim.until_told(Trouble.NOT_APPROVED, OWN[0], "autoApprovers")
        await sim.always(lambda: not sim.in_force, 80)
        assert done(sim, "announce again") == 3
        assert sim.ours == set(OWN), "it stays announced"
        sim.node.approve_by_policy(*CLUSTER)
        await sim.until_in_force(20)

    play(tmp_path, story)


def test_a_person_or_an_approver_is_waited_for_without_a_repair(tmp_path):
    """Headscale up to 0.25 forgets an approval with the announcement."""

    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_told(Trouble.NOT_APPROVED)
        before = edits(sim)
        await sim.always(lambda: not sim.in_force, 40)
        assert edits(sim) == before
        sim.node.approve(*OWN)
        await sim.until_in_force(5)

    play(tmp_path, story, approval="approver")


def test_an_earlier_pod_cidr_loses_its_approval_with_the_first_of_the_new(tmp_path):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_in_force()
        await sim.kill()
        sim.node.approve(FOREIGN[0])
        sim.start(**{"network.podCIDR.nodeLocal": "10.244.77.0/24"})
        await sim.until_in_force()
        assert set(sim.headscale.tailnet.approved(sim.node.number)) == {"10.244.77.0/24", FOREIGN[0]}

    play(tmp_path, story, approval="key")


def test_an_earlier_pod_cidr_is_announced_as_long_as_a_pod_lives_in_it(tmp_path):
    async def story(sim):
        pod = wired()
        sim.records = {pod.key: pod}
        sim.join()
        sim.start()
        await sim.until_in_force()
        await sim.kill()
        sim.start(**{"network.podCIDR.nodeLocal": "10.244.77.0/24"})
        await sim.until(lambda: sim.ours == {OWN[0], "10.244.77.0/24"}, 5)
        await sim.always(lambda: OWN[0] in sim.ours, 10)
        sim.records = {}
        await sim.until(lambda: sim.ours == {"10.244.77.0/24"}, 35)

    play(tmp_path, story)


# --- membership


@pytest.mark.parametrize("approval", ["auto", "key"])
@pytest.mark.parametrize("peers", [0, 3])
def test_a_deleted_node_finds_out_and_joins_again(tmp_path, approval, peers):
    async def story(sim):
        sim.node.lag = 0.3
        sim.join()
        sim.start()
        await sim.until_calm()
        before = sim.node.number
        sim.node.delete()
        within = 340 if (approval, peers) == ("auto", 0) else 45  # nobody else can tell it
        seen = []

        def healed():
            seen.extend(each.code for each in sim.troubles())
            return sim.node.number != before and sim.in_force

        await sim.until(healed, within, "a member again")
        assert Trouble.NODE_DELETED in seen
        assert sim.announced == (*FOREIGN, *OWN)
        await sim.until(lambda: not sim.troubles(), 5, "all is well")

    play(tmp_path, story, approval=approval, peers=peers)


def test_a_deleted_node_without_a_key_says_what_to_do(tmp_path):
    async def story(sim):
        sim.join()
        sim.start(**{"headscale.authKeyFile": ""})
        await sim.until_calm()
        sim.node.delete()
        await sim.until_told(Trouble.NODE_DELETED, sim.url, "tailscale up --force-reauth", within=15)
        await sim.always(lambda: not sim.in_force, 10)
        assert "POST login-interactive" not in sim.writes()

    play(tmp_path, story)


def test_an_expired_key_is_renewed(tmp_path):
    async def story(sim):
        sim.node.lag = 0.5
        sim.join()
        sim.start()
        await sim.until_calm()
        before = sim.node.me
        sim.node.expire()
        await sim.until_told(Trouble.KEY_EXPIRED, sim.url)
        await sim.until_in_force(10)
        assert sim.node.me.id == before.id
        assert sim.node.me.key != before.key
        assert sim.announced == (*FOREIGN, *OWN)

    play(tmp_path, story)


def test_a_lost_control_server_is_told_and_nothing_is_done_about_it(tmp_path):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        sim.tailscaled.calls.clear()
        sim.node.lose_control()
        sim.tailscaled.flood(1)
        told = await sim.until_told(Trouble.CONTROL_LOST, "lost the control server", within=35)
        assert "do not restart" in told.details
        await sim.always(lambda: sim.in_force, 40, "pods keep their connections")
        assert sim.writes() == []
        sim.node.regain_control()
        await sim.until(lambda: not sim.troubles(), 35, "found again")

    play(tmp_path, story)


def test_tailscaled_restarted_without_its_control_server_is_shown_as_what_it_is(tmp_path):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        sim.node.lose_control()
        await sim.tailscaled.restart()
        await sim.until(lambda: not sim.in_force, 5)
        await sim.until(lambda: sim.view.state == "NoState", 5)
        await sim.always(lambda: not sim.in_force, 20)
        sim.node.regain_control()
        await sim.until_in_force()

    play(tmp_path, story)


def test_after_a_restart_of_tailscaled_every_way_is_tried_at_once(tmp_path):
    """A session that the other side believes alive swallows packets until there is traffic."""

    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        await asyncio.sleep(30)
        sim.others.asked.clear()
        await sim.tailscaled.restart()
        await sim.until_in_force()
        await asyncio.sleep(5)
        for number in (2, 3, 4):
            assert sim.others.asked.count(f"worker-{number}") > 4, "both its gateways, about once a second"

    play(tmp_path, story)


# --- routes of others


def test_a_route_that_somebody_deleted_is_brought_back_by_one_toggle(tmp_path):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        before = edits(sim)
        sim.node.lost_routes.add(OTHERS[0])
        sim.tailscaled.flood(1)
        await sim.until(lambda: not sim.view.ways[0].routed, 2, "it is seen")
        await sim.until(lambda: not sim.node.lost_routes, 6, "brought back")
        await sim.until(lambda: all(way.routed for way in sim.view.ways), 3, "and shown")
        await sim.always(lambda: True, 10)
        assert edits(sim) == before + 2
        assert sim.node.prefs["RouteAll"]

    play(tmp_path, story)


def test_a_route_that_does_not_come_back_is_tried_for_once_and_left(tmp_path):
    class Stubborn(set):
        def clear(self) -> None:
            return

    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        before = edits(sim)
        sim.node.lost_routes = Stubborn({OTHERS[0]})
        sim.tailscaled.flood(1)
        await sim.always(lambda: True, 20)
        assert edits(sim) == before + 2, "a toggle cuts all pods for an instant"
        assert sim.in_force
        sim.store.write("mesh-repair", b"")
        await sim.until(lambda: edits(sim) > before + 2, 10, "an operator's word counts")

    play(tmp_path, story)


def test_routes_that_a_peer_no_longer_has_are_not_missed(tmp_path):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        before = edits(sim)
        sim.node.set_peer("worker-2", online=False)
        sim.node.lost_routes.update(OTHERS)
        await sim.always(lambda: True, 15)
        sim.node.drop_peer("worker-3")
        await sim.always(lambda: True, 15)
        assert edits(sim) == before
        assert (sim.view.peers, sim.view.peers_online) == (2, 1)

    play(tmp_path, story)


# --- the proof


def test_without_witnesses_it_is_refreshed_more_and_more_seldom(tmp_path):
    """Where nothing else can tell: five, ten, twenty seconds, up to five minutes."""

    async def story(sim):
        sim.join()
        sim.start()
        await asyncio.sleep(310)
        assert 4 <= refreshes(sim) <= 7

    play(tmp_path, story, peers=0, approval="approver")


def test_witnesses_that_fall_silent_are_no_end_if_headscale_knows_better(tmp_path):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        sim.others.everybody_silent = True
        await sim.always(lambda: sim.in_force, 20)
        assert any(chain.links[Link.DELIVERED].holds is Holds.NO for chain in sim.view.chains)

    play(tmp_path, story, approval="key")


def test_a_change_that_only_witnesses_see_is_known_within_their_next_round(tmp_path):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        sim.headscale.tailnet.revoke(sim.node.number, OWN[0])  # and tailscaled is not told
        await sim.until(lambda: not sim.in_force, 3, "seen")

    play(tmp_path, story)


def test_a_hint_is_followed_at_once(tmp_path):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        await sim.until(lambda: len(sim.others.asked) % 3 == 0, 3)
        sim.others.asked.clear()
        sim.headscale.tailnet.revoke(sim.node.number, OWN[0])
        sim.others.heard_hint(ip_address(sim.node.peers["worker-2"].addresses[0]))
        await sim.until(lambda: sim.others.asked, 0.1, "asked")
        await sim.until(lambda: not sim.in_force, 1, "seen")

    play(tmp_path, story)


def test_a_way_that_fails_and_comes_back_is_shown_as_it_is(tmp_path):
    async def story(sim):
        def shown():
            return {str(way.prefix): way.delivered.holds for way in sim.view.ways}.get(OTHERS[0])

        sim.others.unreachable.add(ip_address("10.244.2.1"))
        sim.join()
        sim.start()
        await sim.until(lambda: shown() is Holds.NO, 10, "lost")
        assert all(chain.in_force for chain in sim.view.chains)
        way = next(way for way in sim.view.ways if str(way.prefix) == OTHERS[0])
        assert way.delivered.trouble.code == Trouble.NOT_DELIVERED
        await asyncio.sleep(20)
        sim.others.unreachable.clear()
        await sim.until(lambda: sim.others.asked.count("worker-2") and shown() is Holds.YES, 40, "found again")

    play(tmp_path, story)


# --- findings of others


def test_two_nodes_with_the_same_prefix_are_both_named(tmp_path):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        rival = sim.headscale.tailnet.add("rival", [OWN[0]], [OWN[0]])
        sim.node.disapprove(OWN[0])
        sim.node.set_peer("rival", routes=(OWN[0],))
        await sim.until_told(Trouble.CIDR_CONFLICT, "rival", OWN[0])
        await sim.until_told(Trouble.NOT_PRIMARY, "rival", OWN[0])
        sim.headscale.tailnet.delete(rival.id)
        sim.node.drop_peer("rival")
        sim.node.approve(OWN[0])
        await sim.until(lambda: sim.in_force and not sim.troubles(), 15, "all is well")

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("who", "code"), [("blind", Trouble.HIDDEN), ("refusing", Trouble.NOT_ACCEPTED)], ids=["blind", "refusing"]
)
def test_nodes_that_do_not_accept_the_prefix_are_named(tmp_path, who, code):
    async def story(sim):
        getattr(sim.others, who).update({"worker-2", "worker-3", "worker-4"})
        sim.join()
        sim.start()
        await sim.until_told(code, "worker-2", "worker-3", "worker-4")
        assert sim.in_force

    play(tmp_path, story, approval="key")


def test_an_mtu_that_is_too_large_and_a_filter_that_drops_are_told(tmp_path):
    async def story(sim):
        sim.kernel.forward_drops = True
        sim.join(NetfilterMode=0)
        sim.start(**{"network.mtu": 1500})
        await sim.until_told(Trouble.MTU, "1500", "1280", "tailscale0")
        await sim.until_told(Trouble.FILTER, "FORWARD", "netfilter-mode=on")
        assert sim.side.mtu() == 1280
        sim.kernel.mtu = 1500
        sim.node.edit(NetfilterMode=2)
        await sim.until(lambda: not sim.troubles(), 35, "all is well")
        assert sim.side.mtu() == 1500

    play(tmp_path, story)


# --- being a witness


def test_what_other_nodes_are_answered_is_how_their_prefixes_look_from_here(tmp_path):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        two, other = sim.node.peers["worker-2"], ip_network("10.244.3.0/24")
        theirs = ip_network(OTHERS[0])
        answer = sim.others.answer(ip_address(two.addresses[0]), (theirs, other))
        assert (answer.name, answer.accepts_routes, set(answer.announces)) == ("vm", True, set(map(ip_network, OWN)))
        assert [(sight.accepted, sight.routed, sight.instead) for sight in answer.sights] == [
            (True, True, ""),
            (False, True, "worker-3"),
        ]
        assert sim.others.answer(ip_address("10.244.2.1"), (theirs,)).sights[0].accepted, "asked from its pod range"
        assert sim.others.answer(ip_address("10.244.2.7"), (theirs,)) is None, "a pod is nobody"
        assert sim.others.answer(ip_address("192.0.2.9"), (theirs,)) is None

    play(tmp_path, story)


def test_who_asked_lately_is_told_when_it_looks_different(tmp_path):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        two, three = sim.node.peers["worker-2"], sim.node.peers["worker-3"]
        address = ip_address(two.addresses[0])
        sim.others.answer(address, (ip_network(OTHERS[0]),))
        sim.node.set_peer("worker-3", routes=())
        sim.node.set_peer("worker-2", routes=(OTHERS[1],))
        await sim.until(lambda: sim.others.hints == [address], 2, "hinted, and nobody else")
        await asyncio.sleep(31)
        sim.node.set_peer("worker-2", routes=OTHERS)
        sim.node.set_peer("worker-3", routes=three.routes)
        await asyncio.sleep(5)
        assert sim.others.hints == [address], "who asked long ago is not waiting"

    play(tmp_path, story)


def test_it_listens_at_its_own_addresses_and_says_where_it_cannot(tmp_path):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_in_force()
        own = {*map(ip_address, sim.node.me.addresses), ip_address("10.244.1.1"), ip_address("fd00:10:244:1::1")}
        assert set(sim.others.listening) == own

    play(tmp_path, story)


def test_peers_are_never_asked_more_than_a_few_times_in_a_second(tmp_path):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_in_force()
        await asyncio.sleep(30)  # after a start there is more to ask
        sim.others.asked.clear()
        for number in range(100):
            peer = sim.node.peers[f"worker-{2 + number % 30}"]
            sim.node.set_peer(peer.name, online=not peer.online, direct=f"192.0.2.1:{number}")
            await asyncio.sleep(0.1)
        assert len(sim.others.asked) < 10 * 13

    play(tmp_path, story, peers=30)


def test_turns_are_rationed_by_what_they_cost_but_for_news_of_this_node(tmp_path, monkeypatch):
    """As in a tailnet of thousands, where a turn costs a tenth of a second of processor time."""
    spent = itertools.count(0.0, 0.1)

    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        monkeypatch.setattr("reconciler.mesh.loop.REST_FOR_WORK", 50.0)
        monkeypatch.setattr("reconciler.mesh.loop.time.thread_time", lambda: next(spent))
        sim.tailscaled.calls.clear()
        for _ in range(6000):
            sim.tailscaled.flood(1)
            await asyncio.sleep(0.01)
        assert 10 <= sim.tailscaled.calls.count("GET status") <= 13, "one in five seconds"
        sim.node.edit(RouteAll=False)
        await sim.until(lambda: sim.node.prefs["RouteAll"], 1, "set again at once")

    play(tmp_path, story)


def test_a_thousand_events_are_a_handful_of_looks(tmp_path):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        sim.tailscaled.calls.clear()
        for _ in range(1000):
            sim.tailscaled.flood(1)
            await asyncio.sleep(0.01)
        assert len([each for each in sim.tailscaled.calls if each == "GET status"]) <= 10 / 0.2

    play(tmp_path, story)


def test_no_refresh_while_the_control_server_cannot_be_reached(tmp_path):
    """It would take a node out of Running with which nothing is wrong."""

    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        sim.control_up = False
        before = refreshes(sim)
        sim.others.everybody_silent = True
        await sim.until_told(Trouble.CONTROL_LOST, "cannot be reached", within=60)
        await sim.always(lambda: refreshes(sim) == before and sim.node.state == "Running", 30)

    play(tmp_path, story)
