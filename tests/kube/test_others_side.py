"""When the daemon asks for other nodes, what it does with the answer, and with none. In virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_network

import pytest

from cni.spec import Refusal
from reconciler.kube.codes import Trouble
from reconciler.kube.finder import Attempt, Reaching
from reconciler.kube.others import EVERY, GUESS_EVERY, LATER
from reconciler.node.clash import Others
from tests.kube import samples
from tests.kube.daemonside import AWAY, READY, SOON, WAY, connected, run
from tests.pure.samples import STATUS

OTHER = "/api/v1/nodes/worker-2"
ELSEWHERE = ("10.244.7.0/24",)  # nobody gave it to this node
CONFIGURED = replace(READY, pod_cidrs=ELSEWHERE)
GUESSED = replace(CONFIGURED, pod_cidr_source={**STATUS.pod_cidr_source, "guess": True})
FORBIDDEN = Refusal(Trouble.API_FORBIDDEN, "worker-1 may not list nodes", "grant it")


def searching(body, status=CONFIGURED, given=True):
    async def begun(site):
        site.status = status
        site.api.put(samples.NODE, samples.node() if given else {"spec": {}})
        site.api.put(OTHER, samples.node("worker-2", cidrs=[*ELSEWHERE]))
        await body(site)

    run(begun)


def between(first, times):
    return [round(later - earlier) for earlier, later in zip((first, *times), times, strict=False)]


def test_nobody_is_looked_for_where_the_cluster_gave_the_cidr():
    async def body(site):
        await connected(site)
        await asyncio.sleep(2 * EVERY)
        assert site.api.listed == []
        assert site.learned == []
        assert site.summary["others"]["needed"] is False

    searching(body, READY)


def test_a_configured_cidr_is_compared_once_for_a_connection_and_then_each_hour():
    async def body(site):
        start = site.clock.now()
        await connected(site)
        await asyncio.sleep(5 * EVERY)
        first, *more = between(start, site.api.listed)
        assert LATER[0] <= first <= LATER[1] + 2
        assert len(more) >= 4
        assert all(0.8 * EVERY - 1 <= pause <= 1.2 * EVERY + 2 for pause in more)
        assert site.learned == [Others(2, {ip_network(ELSEWHERE[0]): "worker-2"})]
        told = {**site.summary["others"], "looked": None}
        assert told == {"needed": True, "looked": None, "nodes": 2, "trouble": None}
        assert site.summary["others"]["looked"] == pytest.approx(site.clock.wall_offset + site.api.listed[-1], abs=1)

    searching(body)


def test_a_guess_is_compared_at_once_and_each_ten_minutes():
    async def body(site):
        start = site.clock.now()
        await connected(site)
        await asyncio.sleep(3600)
        first, *more = between(start, site.api.listed)
        assert first <= 4
        assert len(more) >= 4
        assert all(0.8 * GUESS_EVERY - 1 <= pause <= 1.2 * GUESS_EVERY + 2 for pause in more)

    searching(body, GUESSED, given=False)


def test_a_guess_that_gives_way_to_what_the_cluster_gave_is_not_compared():
    async def body(site):
        await connected(site)
        site.status = READY
        await asyncio.sleep(2 * EVERY)
        assert site.api.listed == []

    searching(body, replace(GUESSED, pod_cidrs=("10.244.9.0/24",)))


def test_after_a_reconnection_it_is_compared_again():
    async def body(site):
        await connected(site)
        await asyncio.sleep(150)
        assert len(site.api.listed) == 1
        site.side.reached(Reaching(None, (Attempt(WAY, AWAY),), site.clock.wall()))
        await asyncio.sleep(2 * EVERY)
        assert len(site.api.listed) == 1
        assert len(site.learned) == 1  # what was learned stays known
        again = site.clock.now()
        await connected(site)
        await asyncio.sleep(150)
        assert again + LATER[0] <= site.api.listed[1] <= again + LATER[1] + 2

    searching(body)


def test_who_is_refused_says_so_in_the_status_and_bothers_nobody():
    async def body(site):
        site.api.refuse = lambda verb, path: FORBIDDEN if verb == "list" else None
        await connected(site)
        await asyncio.sleep(EVERY)
        told = site.summary["others"]
        assert (told["needed"], told["looked"], told["nodes"]) == (True, 0.0, 0)
        assert told["trouble"] == {"code": 177, "what": FORBIDDEN.msg, "cure": FORBIDDEN.details}
        assert (site.summary["trouble"], site.warned, site.learned) == (None, [], [])
        await asyncio.sleep(EVERY)
        assert len(site.api.listed) <= 3
        site.api.refuse = lambda verb, path: None
        await asyncio.sleep(1.3 * EVERY)
        assert site.summary["others"]["trouble"] is None
        assert len(site.learned) == 1

    searching(body)


def test_a_failure_is_tried_again_soon_and_takes_nothing_away():
    async def body(site):
        await connected(site)
        await asyncio.sleep(150)
        site.api.refuse = lambda verb, path: AWAY if verb == "list" else None
        await asyncio.sleep(1.3 * EVERY)
        assert site.summary["others"]["trouble"]["what"] == AWAY.msg
        assert site.summary["others"]["nodes"] == 2
        site.api.refuse = lambda verb, path: None
        await asyncio.sleep(150)
        assert site.summary["others"]["trouble"] is None
        assert len(site.learned) == 1

    searching(body)


def test_a_node_that_is_replaced_under_its_name_is_another_one():
    async def body(site):
        await connected(site)
        await asyncio.sleep(150)
        site.api.drop(OTHER)
        site.api.put(OTHER, samples.node("worker-2", cidrs=["10.244.8.0/24"]))
        site.api.drop(samples.NODE)
        site.api.put(samples.NODE, samples.node(cidrs=["10.244.3.0/24"]))
        await asyncio.sleep(2 * EVERY)
        assert [each.networks for each in site.learned] == [
            {ip_network(ELSEWHERE[0]): "worker-2"},
            {ip_network("10.244.8.0/24"): "worker-2"},
        ]

    searching(body)


def test_what_was_learned_is_forgotten_once_the_cluster_vouches():
    async def body(site):
        await connected(site)
        await asyncio.sleep(150)
        site.status = READY
        await asyncio.sleep(SOON)
        assert site.learned[1:] == [Others()]
        assert site.summary["others"] == {"needed": False, "looked": 0.0, "nodes": 0, "trouble": None}

    searching(body)


def test_a_node_that_is_not_known_by_its_name_does_not_take_itself_for_another():
    async def body(site):
        site.api.drop(samples.NODE)
        await connected(site)
        await asyncio.sleep(EVERY)
        assert site.api.listed == []

    searching(body)


def test_a_clash_becomes_an_event_each_hour_until_it_is_over():
    async def body(site):
        what = "this node's pod CIDR 10.244.7.0/24 overlaps 10.244.7.0/24 of node worker-2"
        finding = {**STATUS.pod_cidr_source["findings"][0], "code": 164, "why": what, "cure": "correct one"}
        await connected(site)
        found = {**STATUS.pod_cidr_source, "findings": [*STATUS.pod_cidr_source["findings"], finding]}
        site.status = replace(CONFIGURED, pod_cidr_source=found)
        await asyncio.sleep(SOON)
        assert site.events == [("Normal", "HeadCNIIsUp"), ("Warning", "HeadCNIPodCIDRClash")]
        assert any(each.get("message") == f"{what}; correct one" for each in site.api.objects.values())
        await asyncio.sleep(3600)
        assert site.events.count(("Warning", "HeadCNIPodCIDRClash")) == 2
        site.status = CONFIGURED
        await asyncio.sleep(7200)
        assert site.events.count(("Warning", "HeadCNIPodCIDRClash")) == 2

    searching(body)
