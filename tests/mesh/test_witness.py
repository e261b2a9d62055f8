"""Asking and being asked, where a whole node is too little: many prefixes, nobody to ask, and a thousand peers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network

from cni.spec import Code, Refusal
from fixtures.fakes import VirtualClock
from fixtures.meshsim import MeshSim, play, wired
from fixtures.meshsim.loop import SocketLoop
from reconciler.mesh.look import Index, Looker
from reconciler.mesh.model import Holds, Link, Peer, Report, Sight, Tailnet
from reconciler.mesh.ports import Echo, Unanswered
from reconciler.mesh.wire import MAX_PREFIXES
from reconciler.mesh.witness import MOST_ASKERS, Witness
from reconciler.settings import IpAddress, Network

PODS = 40


def test_of_many_prefixes_each_is_asked_for(tmp_path):
    """With a prefix for each pod; a question holds sixteen."""

    async def story(sim: MeshSim) -> None:
        pods = [wired(f"10.244.1.{number}/32") for number in range(10, 10 + PODS)]
        sim.records = {each.key: each for each in pods}
        sim.join()
        sim.start(**{"mesh.advertise": "pod"})
        await sim.until(lambda: len(sim.view.chains) == PODS, 5)
        await sim.until(lambda: all(chain.in_force for chain in sim.view.chains), 10, "all in force")
        accepted = [chain.links[Link.ACCEPTED].holds for chain in sim.view.chains]
        assert accepted == [Holds.YES] * PODS
        assert PODS > 2 * MAX_PREFIXES, "so three questions"

    play(tmp_path, story)


def test_without_a_probe_port_nobody_is_asked_and_a_refresh_tells(tmp_path):
    async def story(sim: MeshSim) -> None:
        sim.join()
        sim.start(**{"mesh.probePort": 0})
        await sim.until_in_force()
        assert sim.others.asked == []
        assert sim.view.chains[0].links[Link.DELIVERED].holds is Holds.UNKNOWN
        assert not sim.troubles()

    play(tmp_path, story)


def test_an_address_that_cannot_be_listened_at_is_told_until_it_can(tmp_path):
    async def story(sim: MeshSim) -> None:
        sim.others.deaf = (Refusal(Code.IO_FAILURE, "cannot listen on 100.64.0.4 port 9472", "see who has it"),)
        sim.join()
        sim.start()
        await sim.until_told(Code.IO_FAILURE, "100.64.0.4", "see who has it")
        assert await sim.until_in_force() >= 0
        sim.others.deaf = ()
        await sim.until(lambda: not sim.troubles(), 35, "over")

    play(tmp_path, story)


def test_who_asks_is_remembered_within_bounds(tmp_path):
    async def story(sim: MeshSim) -> None:
        sim.join()
        sim.start()
        await sim.until_calm()
        for number in range(MOST_ASKERS + 50):
            address = f"100.127.{number // 250}.{number % 250 + 1}"
            sim.node.set_peer(f"asker-{number}", addresses=(address,), routes=())
        sim.tailscaled.flood(1)
        await sim.until(lambda: sim.view.peers == MOST_ASKERS + 53, 3)
        for number in range(MOST_ASKERS + 50):
            sim.others.answer(ip_address(f"100.127.{number // 250}.{number % 250 + 1}"), ())
        for number in range(MOST_ASKERS + 50):
            sim.node.set_peer(f"asker-{number}", routes=(f"10.99.{number % 250}.0/24",))
        await asyncio.sleep(2)
        assert len(sim.others.hints) == MOST_ASKERS

    play(tmp_path, story)


def test_a_hint_of_a_stranger_is_not_followed(tmp_path):
    async def story(sim: MeshSim) -> None:
        sim.join()
        sim.start()
        await sim.until_calm()
        await asyncio.sleep(30)
        before = len(sim.others.asked)
        for number in range(50):
            sim.others.heard_hint(ip_address(f"192.0.2.{number}"))
            await asyncio.sleep(0.01)
        assert len(sim.others.asked) - before <= 6, "the usual ones"

    play(tmp_path, story)


class Answering:
    """Other nodes without a world: each says that it accepts what it is asked for, but for those that do not answer."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.asked: list[IpAddress] = []
        self.mute: set[IpAddress] = set()

    def set_addresses(self, addresses: Sequence[IpAddress]) -> Sequence[Refusal]:
        return ()

    def hint(self, source: IpAddress, target: IpAddress) -> None:
        return

    async def ask(
        self, source: IpAddress, target: IpAddress, prefixes: Sequence[Network], within: float
    ) -> Echo | Unanswered:
        self.asked.append(target)
        await asyncio.sleep(within if target in self.mute else 0.001)
        if target in self.mute:
            return Unanswered("no answer")
        sights = dict.fromkeys(prefixes, Sight(True, True))
        return Echo(Report(self._clock.now(), str(target), sights, ()), 1.0)


def tailnet(count: int) -> Tailnet:
    peers = [
        Peer(
            f"nodekey:{number}",
            name=f"worker-{number}",
            addresses=(ip_address(f"100.64.1.{number}"),),
            routes=frozenset([ip_network(f"10.244.{number}.0/24")]),
            online=True,
        )
        for number in range(2, 2 + count)
    ]
    me = Peer("nodekey:me", name="me", addresses=(ip_address("100.64.0.1"),), online=True)
    return Tailnet("1.102.3", "Running", True, True, "", (), me, {peer.key: peer for peer in peers})


def test_one_more_node_that_says_the_same_is_no_news_and_a_way_that_breaks_is():
    """In a large tailnet there is another one each moment."""
    told: list[str] = []

    async def story() -> None:
        clock = VirtualClock()
        clock.loop = asyncio.get_running_loop()
        looker = Looker(clock, None, None)
        looker.tailnet = tailnet(200)
        looker.index = Index.of(looker.tailnet)
        own = (ip_network("10.244.1.0/24"),)
        cluster = (ip_network("10.244.0.0/16"),)
        asked = Answering(clock)
        witness = Witness(
            looker, lambda: own, lambda: cluster, lambda: told.append("news"), lambda: told.append("look"), "x"
        )
        witness.use(asked)
        witness.peers_changed()
        running = asyncio.create_task(witness.run())
        await asyncio.sleep(120)
        gateways = {ip_address(f"10.244.{number}.1") for number in range(2, 202)}
        assert gateways <= set(asked.asked)
        assert told == ["news"], "the very first word"
        asked.mute = set(list(gateways)[:3])
        await asyncio.sleep(120)
        assert told == ["news", "look", "look", "look"]
        asked.mute = set()
        await asyncio.sleep(120)
        assert told == ["news", *["look"] * 6]
        running.cancel()

    with asyncio.Runner(loop_factory=SocketLoop) as runner:
        runner.run(story())


def test_pods_of_a_peer_are_those_of_the_cluster_and_not_the_whole_of_it(tmp_path):
    async def story(sim: MeshSim) -> None:
        sim.node.set_peer("router", routes=("0.0.0.0/0", "10.244.0.0/16", "192.168.0.0/24", "10.244.9.0/24"))
        sim.join()
        sim.start()
        await sim.until_in_force()
        ways = {str(way.prefix) for way in sim.view.ways if way.name == "router"}
        assert ways == {"10.244.9.0/24"}
        await sim.until(lambda: "router" in sim.others.asked, 10)
        assert ip_network("10.244.9.0/24") in {way.prefix for way in sim.view.ways}

    play(tmp_path, story)


def test_the_cluster_may_turn_out_to_be_another_one(tmp_path):
    async def story(sim: MeshSim) -> None:
        sim.node.set_peer("worker-9", routes=("10.96.9.0/24",))
        sim.join()
        sim.start()
        await sim.until_in_force()
        assert not any(way.name == "worker-9" for way in sim.view.ways)
        sim.config = replace(sim.config, cluster_cidrs=(*sim.config.cluster_cidrs, ip_network("10.96.0.0/16")))
        await sim.until(lambda: any(way.prefix == ip_network("10.96.9.0/24") for way in sim.view.ways), 20)

    play(tmp_path, story)
