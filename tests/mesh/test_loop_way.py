"""The whole way of a node: it joins, is set up, announces, is approved, is in force, and its pods with it."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network

import pytest

from fixtures.headscale import GENERATIONS
from fixtures.meshsim import FOREIGN, OWN, MeshSim, play, waiting, wired
from reconciler.mesh.approve import Identity, Mark, Member
from reconciler.mesh.approver import Approver
from reconciler.mesh.codes import Trouble
from reconciler.mesh.headscale import HeadscaleClient
from reconciler.mesh.members import Reading
from reconciler.mesh.model import Holds, Link
from reconciler.mesh.preferences import REQUIRED
from statemachine.attachment import State

BATCH = 1.0  # seconds; what Headscale needs for an approval


def as_required(sim: MeshSim) -> bool:
    return all(sim.node.prefs[each.name] == each.value for each in REQUIRED)


def all_holds(sim: MeshSim) -> bool:
    links = [state for chain in sim.view.chains for state in chain.links.values()]
    ways = [way.delivered for way in sim.view.ways if way.routed]
    return all(state.holds is Holds.YES for state in (*links, *ways))


def approver(sim: MeshSim) -> asyncio.Task[None]:
    """The one that holds the cluster's key."""
    me = Member("worker-1", tuple(map(ip_network, OWN)), Identity(Mark.NODE_KEY, sim.node.me.key))
    client = HeadscaleClient(sim.headscale.url, lambda: sim.headscale.key)
    cluster = sim.config.cluster_cidrs

    async def run() -> None:
        try:
            await Approver(client, lambda: Reading((me,)), cluster).run()
        finally:
            await client.close()

    return asyncio.create_task(run())


def fresh(sim: MeshSim) -> None:
    """Never joined; a person has set the routes already."""
    sim.node.prefs = {**sim.node.prefs, "AdvertiseRoutes": list(FOREIGN)}


@pytest.mark.parametrize("approval", ["auto", "approver", "key"])
def test_a_new_node_gets_there_by_itself(tmp_path, approval):
    async def story(sim):
        fresh(sim)
        sim.start()
        await sim.until(lambda: sim.node.state == "Running", 3, "joined")
        assert not sim.node.called_home
        approving = approver(sim) if approval == "approver" else None
        await sim.until_in_force(8)
        if approving:
            approving.cancel()
        assert as_required(sim)
        assert sim.announced == (*FOREIGN, *OWN)
        assert set(sim.node.serving) == set(OWN)
        await sim.until(lambda: not sim.troubles(), 3, "nothing is wrong")
        await sim.until(lambda: all_holds(sim), 5, "every link of every prefix, and every way, holds")
        view = sim.view
        assert (view.state, view.control_url, view.foreign) == ("Running", sim.url, FOREIGN)
        assert (view.peers, view.peers_online, len(view.ways)) == (3, 3, 6)

    play(tmp_path, story, approval=approval)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_generation_of_headscale_approves_by_key(tmp_path, generation):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_in_force(5)
        assert set(sim.node.serving) == set(OWN)
        assert set(sim.headscale.tailnet.approved(sim.node.number)) == set(OWN), "what is foreign is not approved"

    play(tmp_path, story, approval="key", generation=generation)


def test_with_a_key_the_node_is_in_force_within_two_of_headscales_batches(tmp_path):
    async def story(sim):
        sim.headscale.batch = BATCH
        sim.join()
        sim.start()
        assert await sim.until_in_force() <= 2 * BATCH

    play(tmp_path, story, approval="key")


def test_until_it_is_approved_each_link_says_what_is_missing_and_how_to_get_it(tmp_path):
    async def story(sim):
        sim.join()
        sim.start()
        told = await sim.until_told(Trouble.NOT_APPROVED, OWN[0])
        assert "headcni approver" in told.details
        chain = sim.view.chains[0]
        assert chain.links[Link.ANNOUNCED].holds is Holds.YES
        assert chain.links[Link.SERVING].holds is Holds.NO
        assert not chain.in_force
        sim.node.approve(*OWN)
        assert await sim.until_in_force() <= 3

    play(tmp_path, story, approval="approver")


def test_where_policy_approves_the_missing_policy_is_printed(tmp_path):
    async def story(sim):
        sim.node.approve_by_policy()
        sim.join()
        sim.start()
        told = await sim.until_told(Trouble.NOT_APPROVED)
        for word in ("autoApprovers", "10.244.0.0/16", "fd00:10:244::/48"):
            assert word in told.details

    play(tmp_path, story, approval="auto")


def test_a_node_alone_in_its_tailnet_proves_it_by_a_refresh(tmp_path):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_in_force(8)
        assert "tailscaled, after a refresh" in sim.view.chains[0].links[Link.SERVING].evidence
        assert sim.view.chains[0].links[Link.DELIVERED].holds is Holds.UNKNOWN

    play(tmp_path, story, peers=0)


def test_pods_become_advertised_with_the_prefix_and_hidden_with_it(tmp_path):
    pod = wired()

    async def story(sim):
        sim.records[pod.key] = pod
        sim.start()
        sim.join()

        def state():
            return sim.records[pod.key].state

        await sim.always(lambda: state() is State.WIRED, 0.1)
        sim.records[pod.key] = waiting(pod)
        await sim.until(lambda: state() is State.ADVERTISED, 8, "the pod is advertised")
        assert sim.in_force
        sim.node.approve_by_policy()
        sim.node.disapprove(*OWN)
        await sim.until(lambda: not sim.in_force, 5)
        assert state() is State.ADVERTISED, "not for a moment's doubt"
        await sim.until(lambda: state() is State.WIRED, 5, "the pod is hidden")
        assert "approved" in sim.records[pod.key].history[-1].cause
        sim.node.approve(*OWN)
        sim.records[pod.key] = waiting(sim.records[pod.key])
        await sim.until(lambda: state() is State.ADVERTISED, 8, "the pod is advertised again")

    play(tmp_path, story)


def test_each_pod_alone_is_announced_where_that_is_configured(tmp_path):
    async def story(sim):
        first, second = wired(), wired("10.244.1.8/32")
        sim.records = {first.key: first}
        sim.join()
        sim.start(**{"mesh.advertise": "pod"})
        await sim.until(lambda: sim.ours == {"10.244.1.7/32"}, 5)
        sim.records = {second.key: second}
        await sim.side.advertiser.advertise(second)
        await sim.until(lambda: sim.ours == {"10.244.1.8/32"}, 5)
        sim.records = {}
        await sim.side.advertiser.withdraw(second)
        await sim.until(lambda: sim.ours == set(), 5)

    play(tmp_path, story)
