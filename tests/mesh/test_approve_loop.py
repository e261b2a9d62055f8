"""The approver at work, on the stand-in: it approves, waits, says each thing once, and outlasts what fails."""

from __future__ import annotations

import asyncio
import logging
from ipaddress import ip_network

import pytest

from cni.spec import Code, Refusal
from fixtures.headscale import GENERATIONS, Fault, HeadscaleServer
from reconciler.mesh.approve import Identity, Mark, Member
from reconciler.mesh.approver import BUSY, LONGEST, REST, Approver, pause
from reconciler.mesh.headscale import HeadscaleClient
from reconciler.mesh.members import Reading

CLUSTER = (ip_network("10.244.0.0/16"),)


def member(number):
    return Member(f"worker-{number}", (ip_network(f"10.244.{number}.0/24"),), Identity(Mark.ID, str(number)))


class Nap:
    """Time that passes when the test says so: each sleep is a step of a script, and after the last the loop ends."""

    def __init__(self, *steps):
        self.steps = list(steps)
        self.slept = []

    async def __call__(self, seconds):
        self.slept.append(seconds)
        if not self.steps:
            raise asyncio.CancelledError
        self.steps.pop(0)()


def run(generation, members, *steps):
    """`steps` are called with the server; returns how long was slept, and the server."""

    async def inner():
        async with HeadscaleServer(generation) as server:
            nap = Nap(*[lambda step=step: step(server) for step in steps[1:]])
            steps[0](server)
            client = HeadscaleClient(server.url, lambda: server.key)
            try:
                await Approver(client, members, CLUSTER, sleep=nap, chance=lambda: 1.0).run()
            except asyncio.CancelledError:
                pass
            finally:
                await client.close()
            return nap.slept, server

    return asyncio.run(inner())


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, "headcni")
    return lambda word: [record.getMessage() for record in caplog.records if word in record.getMessage()]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_node_that_comes_announces_and_changes_its_cidr(generation, said):
    cidrs = {"worker-1": "10.244.1.0/24"}

    def members():
        return Reading((Member("worker-1", (ip_network(cidrs["worker-1"]),), Identity(Mark.ID, "1")),))

    def moves(server):
        cidrs["worker-1"] = "10.244.7.0/24"
        server.tailnet.announce(1, "10.244.1.0/24", "10.244.7.0/24", "0.0.0.0/0")

    slept, server = run(
        generation,
        members,
        lambda server: None,
        lambda server: server.tailnet.add("worker-1"),
        lambda server: server.tailnet.announce(1, "10.244.1.0/24", "0.0.0.0/0"),
        lambda server: server.tailnet.approve(1, "0.0.0.0/0"),
        moves,
        lambda server: None,
    )
    assert slept == [BUSY, BUSY, REST, REST, REST, REST]
    assert set(server.tailnet.approved(1)) - {"::/0"} == {"10.244.7.0/24", "0.0.0.0/0"}
    changes = [*said("approved prefix="), *said("revoked prefix=")]
    assert changes == [
        "approved prefix=10.244.1.0/24 member=worker-1 node=1",
        "approved prefix=10.244.7.0/24 member=worker-1 node=1",
        "revoked prefix=10.244.1.0/24 member=worker-1 node=1",
    ]


def test_a_problem_is_told_once_while_it_lasts_and_when_it_is_over(said):
    run(
        "0.29",
        lambda: Reading((member(1),)),
        *[lambda server: None] * 3,
        lambda server: server.tailnet.add("worker-1", ["10.244.1.0/24"]),
        lambda server: None,
        lambda server: server.tailnet.delete(1),
        lambda server: None,
    )
    assert [text.partition(":")[0] for text in said("no node of the tailnet")] == ["worker-1", "over", "worker-1"]


@pytest.mark.parametrize("fault", [Fault(status=503), Fault(drop=True), Fault(status=401)])
def test_a_headscale_that_fails_is_waited_for_longer_and_longer(fault, said):
    slept, server = run(
        "0.29",
        lambda: Reading((member(1),)),
        lambda server: server.tailnet.add("worker-1", ["10.244.1.0/24"]) and server.inject("GET", "/node", fault),
        *[lambda server: None] * 3,
        lambda server: server.cure(),
    )
    assert slept == [4.0, 8.0, 16.0, 32.0, REST]
    assert server.tailnet.approved(1) == ["10.244.1.0/24"]
    assert len(said("127.0.0.1")) == 2  # when it begins, when it is over


def test_while_headscale_fails_no_problem_is_called_over(said):
    run(
        "0.29",
        lambda: Reading((member(1),)),
        lambda server: None,
        lambda server: server.inject("GET", "/node", Fault(status=503)),
        lambda server: server.cure(),
        lambda server: None,
    )
    assert len(said("no node of the tailnet")) == 1
    assert len(said("over: Headscale")) == 1


def test_what_fails_for_one_node_is_tried_again_soon(said):
    def comes(server):
        for number in (1, 2):
            server.tailnet.add(f"worker-{number}", [f"10.244.{number}.0/24"])
        server.inject("POST", "/node/1/approve_routes", Fault(status=500, body="database is locked"))

    slept, server = run(
        "0.29",
        lambda: Reading((member(1), member(2))),
        comes,
        lambda server: server.cure(),
    )
    assert slept == [BUSY, REST]
    assert server.tailnet.approved(1) == ["10.244.1.0/24"]
    assert len(said("database is locked")) == 2
    assert len(said("approved prefix=10.244.2.0/24")) == 1


def test_a_broken_node_list_is_told_and_the_old_one_goes_on(said):
    broken = Refusal(Code.INVALID_CONFIGURATION, "the node list is not YAML", "correct it")
    _, server = run(
        "0.29",
        lambda: Reading((member(1),), broken),
        lambda server: server.tailnet.add("worker-1", ["10.244.1.0/24"]),
        lambda server: None,
    )
    assert server.tailnet.approved(1) == ["10.244.1.0/24"]
    assert len(said("not YAML")) == 1


@pytest.mark.parametrize("stop", range(1, 12))
def test_killed_anywhere_the_next_one_finds_the_same_to_do(stop):
    """It is cut off at its `stop`-th request; the next one goes on from what Headscale holds."""

    def members():
        return Reading(tuple(map(member, (1, 2, 3))))

    async def inner():
        async with HeadscaleServer("0.29") as server:
            for number in (1, 2, 3):
                server.tailnet.add(f"worker-{number}", [f"10.244.{number}.0/24", "0.0.0.0/0"], ["0.0.0.0/0"])
            first = HeadscaleClient(server.url, lambda: server.key)
            running = asyncio.create_task(Approver(first, members, CLUSTER).round())
            cut = Fault(act=lambda: running.cancel() if len(server.calls) == stop else None)
            server.inject("GET", "", cut)
            server.inject("POST", "", cut)
            await asyncio.gather(running, return_exceptions=True)
            assert running.cancelled() == (len(server.calls) >= stop)
            await first.close()
            server.cure()
            second = HeadscaleClient(server.url, lambda: server.key)
            assert (await Approver(second, members, CLUSTER).round()).problems == ()
            await second.close()
            for number in (1, 2, 3):
                assert server.tailnet.approved(number) == ["0.0.0.0/0", f"10.244.{number}.0/24", "::/0"]

    asyncio.run(inner())


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_the_pause(chance):
    assert pause(True, 0, chance) == BUSY
    assert pause(False, 0, chance) == REST
    waits = [pause(True, failures, chance) for failures in range(1, 40)]
    assert waits == sorted(waits)
    assert all(BUSY <= wait <= LONGEST for wait in waits)
    assert waits[-1] == LONGEST * (0.5 + chance / 2)
