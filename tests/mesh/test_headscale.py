"""The client on the stand-in: what it writes and what it leaves, whoever else writes, dies or is upgraded meanwhile."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network

import pytest

from cni.spec import Refusal
from fixtures.headscale import GENERATIONS, Fault, HeadscaleServer
from reconciler.mesh.codes import Trouble
from reconciler.mesh.control.backend import Generation, Wish
from reconciler.mesh.headscale import ROUNDS, HeadscaleClient

POD, OLD_POD = ip_network("10.244.1.0/24"), ip_network("10.244.9.0/24")
ROWS, LISTS = ("0.22", "0.25"), ("0.26", "0.29")
READ = {"0.22": "/routes", "0.25": "/routes", "0.26": "/node", "0.29": "/node"}  # where approvals are seen
WRITE = {"0.22": "/enable", "0.25": "/enable", "0.26": "/approve_routes", "0.29": "/approve_routes"}


def on(generation, body, **options):
    """Runs `body(server, client)`; the node `worker-1` announces its pods."""

    async def run():
        async with HeadscaleServer(generation, **options) as server:
            server.tailnet.add("worker-1", [str(POD)])
            client = HeadscaleClient(server.url, lambda: server.key, timeout=5)
            try:
                return await body(server, client)
            finally:
                await client.close()

    return asyncio.run(run())


def writes(server):
    return [call for call in server.calls if call.startswith("POST")]


async def worker(client):
    nodes = await client.nodes()
    assert not isinstance(nodes, Refusal), nodes
    return nodes[0]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_nothing_is_written_that_is_there_already(generation):
    async def body(server, client):
        node = await worker(client)
        await client.approve(node, {POD})
        assert len(writes(server)) == 1
        await client.approve(node, {POD})
        await client.approve(node, (), {OLD_POD})
        assert len(writes(server)) == 1

    on(generation, body)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_again_writes_once_more_and_only_once(generation):
    async def body(server, client):
        node = await worker(client)
        await client.approve(node, {POD})
        await client.approve(node, {POD}, again=True)
        assert len(writes(server)) == 2

    on(generation, body)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_it_is_decided_on_what_is_read_fresh_not_on_the_node_given(generation):
    """Somebody approved an exit node after the caller had looked."""

    async def body(server, client):
        node = await worker(client)
        server.tailnet.announce(1, str(POD), "0.0.0.0/0", "::/0")
        server.tailnet.approve(1, "0.0.0.0/0", "::/0")
        await client.approve(node, {POD})
        assert set(server.tailnet.approved(1)) == {str(POD), "0.0.0.0/0", "::/0"}

    on(generation, body)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_what_somebody_takes_away_in_between_is_written_again(generation):
    async def body(server, client):
        node = await worker(client)
        taken = iter([list, lambda: server.tailnet.revoke(1, str(POD))])  # before the writing, and after it
        server.inject("GET", READ[generation], Fault(act=lambda: next(taken)(), times=2))
        outcome = await client.approve(node, {POD})
        assert not isinstance(outcome, Refusal)
        assert server.tailnet.approved(1) == [str(POD)]
        assert len(writes(server)) == 2

    on(generation, body)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_who_always_takes_it_away_is_told_of_and_not_fought(generation):
    async def body(server, client):
        node = await worker(client)
        server.inject("GET", READ[generation], Fault(act=lambda: server.tailnet.revoke(1, str(POD))))
        outcome = await client.approve(node, {POD})
        assert isinstance(outcome, Refusal)
        assert outcome.code == Trouble.HEADSCALE_ANSWER
        assert "worker-1" in outcome.msg
        assert "somebody else" in outcome.details
        assert len(writes(server)) == ROUNDS

    on(generation, body)


@pytest.mark.parametrize("generation", LISTS)
def test_texts_that_are_not_ours_go_back_as_they_came(generation):
    """A prefix with host bits was approved by somebody: Headscale keeps it and never serves it."""

    async def body(server, client):
        strange = "10.244.1.7/24"
        server.tailnet.approve(1, strange)
        node = await worker(client)
        assert not node.approved
        await client.approve(node, {POD}, {OLD_POD})
        assert set(server.tailnet.approved(1)) == {strange, str(POD)}

    on(generation, body)


@pytest.mark.parametrize("generation", ROWS)
def test_a_dead_row_that_calls_itself_primary_serves_nothing(generation):
    async def body(server, client):
        await client.approve(await worker(client), {POD})
        assert (await worker(client)).primary == {POD}
        server.tailnet.announce(1)
        row = next(iter(server.tailnet.rows.values()))
        assert (row.advertised, row.enabled, row.primary) == (False, False, True)
        node = await worker(client)
        assert not node.announced | node.approved | node.primary

    on(generation, body)


@pytest.mark.parametrize("generation", ROWS)
def test_where_only_announced_routes_can_be_approved_the_rest_is_named(generation):
    async def body(server, client):
        outcome = await client.approve(await worker(client), {POD, OLD_POD})
        assert isinstance(outcome, Refusal)
        assert outcome.code == Trouble.NOT_ANNOUNCED
        assert str(OLD_POD) in outcome.msg
        assert str(POD) not in outcome.msg
        assert server.tailnet.approved(1) == [str(POD)]

    on(generation, body)


@pytest.mark.parametrize("generation", LISTS)
def test_a_missing_list_is_not_an_empty_one(generation):
    """Written back, it would take all approvals away."""

    async def body(server, client):
        node = await worker(client)
        server.tailnet.approve(1, "0.0.0.0/0")
        text = (
            '{"nodes":[{"id":"1","nodeKey":"%s","ipAddresses":[],"availableRoutes":[],"subnetRoutes":[]}]}' % node.key
        )
        server.inject("GET", "/node", Fault(status=200, body=text, content_type="application/json"))
        outcome = await client.approve(node, {POD})
        assert isinstance(outcome, Refusal)
        assert outcome.code == Trouble.HEADSCALE_ANSWER
        assert "approvedRoutes" in outcome.msg
        assert not writes(server)

    on(generation, body)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_node_that_is_deleted_while_it_is_written(generation):
    async def body(server, client):
        node = await worker(client)
        server.inject("POST", WRITE[generation], Fault(act=lambda: server.tailnet.delete(1)))
        outcome = await client.approve(node, {POD})
        assert isinstance(outcome, Refusal)
        assert outcome.code == Trouble.NODE_DELETED

    on(generation, body)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_id_of_a_deleted_node_given_to_another_gets_nothing(generation):
    async def body(server, client):
        node = await worker(client)
        server.tailnet.delete(1)
        server.tailnet.add("thief", [str(POD)], id=1, key="nodekey:" + "ab" * 32)
        outcome = await client.approve(node, {POD})
        assert isinstance(outcome, Refusal)
        assert outcome.code == Trouble.NODE_DELETED
        assert not server.tailnet.approved(1)

    on(generation, body)


@pytest.mark.parametrize(("before", "after"), [(a, b) for a in GENERATIONS for b in GENERATIONS if a != b])
def test_a_server_that_is_upgraded_meanwhile_is_probed_anew(before, after):
    async def body(server, client):
        node = await worker(client)
        known = {"0.22": Generation.MACHINES, "0.25": Generation.ROUTES}
        assert await client.generation() is known.get(before, Generation.APPROVALS)
        server.become(after)
        outcome = await client.approve(node, {POD})
        assert not isinstance(outcome, Refusal), outcome
        assert outcome.approved == {POD}
        assert await client.generation() is known.get(after, Generation.APPROVALS)

    on(before, body)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_two_callers_at_once_do_not_overwrite_each_other(generation):
    async def body(server, client):
        server.tailnet.announce(1, str(POD), str(OLD_POD))
        node = await worker(client)
        outcomes = await asyncio.gather(client.approve(node, {POD}), client.approve(node, {OLD_POD}))
        assert not any(isinstance(each, Refusal) for each in outcomes)
        assert set(server.tailnet.approved(1)) == {str(POD), str(OLD_POD)}

    on(generation, body)


# --- many at once


def pods(number):
    return ip_network(f"10.{number >> 8}.{number & 255}.0/24")


@pytest.mark.parametrize("generation", GENERATIONS)
def test_many_are_approved_with_one_reading_before_and_one_after(generation):
    count = 100

    async def body(server, client):
        for number in range(2, count + 1):
            server.tailnet.add(f"worker-{number}", [str(pods(number))])
        nodes = await client.nodes()
        server.calls.clear()
        outcomes = await client.approve_many([Wish(node, node.announced) for node in nodes])
        assert [each.approved for each in outcomes] == [node.announced for node in nodes]
        assert len(writes(server)) == count
        readings = [call for call in server.calls if call.startswith("GET")]
        assert len(readings) == (4 if generation in ROWS else 2)

    on(generation, body)


def test_what_headscale_gathers_is_waited_for_once_not_a_hundred_times():
    """One after the other would be nineteen seconds, side by side it is less than one."""
    count, batch = 64, 0.3

    async def body(server, client):
        for number in range(2, count + 1):
            server.tailnet.add(f"worker-{number}", [str(pods(number))])
        nodes = await client.nodes()
        began = asyncio.get_running_loop().time()
        await client.approve_many([Wish(node, node.announced) for node in nodes])
        assert asyncio.get_running_loop().time() - began < batch * count / 4

    on("0.29", body, batch=batch)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_one_that_fails_does_not_stop_the_others(generation):
    async def body(server, client):
        server.tailnet.add("worker-2", [str(OLD_POD)])
        first, second = await client.nodes()
        stranger = type(first)("77", "stranger", "nodekey:" + "0" * 64)
        path = "/routes/1/enable" if generation in ROWS else "/node/1/approve_routes"
        server.inject("POST", path, Fault(status=503, body="try later"))
        wishes = [Wish(first, {POD}), Wish(stranger, {POD}), Wish(second, {OLD_POD})]
        failed, unknown, done = await client.approve_many(wishes)
        assert (failed.code, unknown.code) == (Trouble.HEADSCALE_ANSWER, Trouble.NODE_DELETED)
        assert "503: try later" in failed.msg
        assert done.approved == {OLD_POD}

    on(generation, body)


def test_nothing_is_asked_for_nothing():
    async def body(server, client):
        assert await client.approve_many([]) == ()
        assert server.calls == []

    on("0.29", body)
