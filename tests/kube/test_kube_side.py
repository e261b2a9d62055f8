"""The daemon's side of Kubernetes, in virtual time: it tells the truth soon after any change, and delays nobody."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_network

import pytest

from cni.spec import Refusal
from fixtures.kube.fake_api import FakeApi
from reconciler.kube.codes import Trouble
from reconciler.kube.finder import Attempt, Reaching
from reconciler.kube.garbage import GRACE, MARGIN, RuntimeList
from reconciler.kube.lasting import LONG
from reconciler.kube.side import SWEEP
from statemachine.attachment import Pod
from statemachine.machine import Delete
from tests.kube import samples
from tests.kube.daemonside import AWAY, FULL, POD_PATH, READY, RECORD, SOON, WAY, connected, run

UP = ("False", "HeadCNIIsUp", [], "none")


def test_without_an_api_nothing_happens_and_the_status_says_so():
    async def body(site):
        await asyncio.sleep(600)
        assert site.summary["up_to_date"] is False
        assert site.summary["trouble"]["code"] == Trouble.API_UNREACHABLE
        assert site.summary["endpoint"] == ""
        assert site.posted == []

    run(body)


def test_once_there_is_an_api_everything_is_told():
    async def body(site):
        await asyncio.sleep(100)
        await connected(site)
        assert site.told == UP
        assert site.events == [("Normal", "HeadCNIIsUp")]
        assert site.summary == {
            "mode": "auto",
            "node": "worker-1",
            "endpoint": "fake",
            "up_to_date": True,
            "since": pytest.approx(site.clock.wall() - SOON, abs=1),
            "trouble": None,
            "tried": [{"way": "kube.url https://192.0.2.1:6443", "trouble": None}],
            "condition": "False HeadCNIIsUp",
            "others": {"needed": False, "looked": 0.0, "nodes": 0, "trouble": None},
        }

    run(body)


def test_at_rest_hardly_anything_is_written():
    async def body(site):
        await connected(site)
        written, changes = len(site.api.calls), site.changes
        await asyncio.sleep(3600)
        assert len(site.api.calls) - written <= 13  # heartbeats
        assert site.changes == changes

    run(body)


def test_a_node_that_is_not_ready_any_more_says_so_soon_and_once():
    async def body(site):
        await connected(site)
        site.status = FULL
        await asyncio.sleep(SOON)
        assert site.told[:2] == ("True", "HeadCNIIsNotReady")
        await asyncio.sleep(1200)
        assert site.events == [("Normal", "HeadCNIIsUp"), ("Warning", "HeadCNIIsNotReady")]
        site.status = READY
        await asyncio.sleep(SOON)
        assert site.told == UP

    run(body)


def test_readiness_comes_first_then_the_taint():
    async def body(site):
        site.status = FULL
        await connected(site)
        assert site.told[2] == ["headcni.io/not-ready"]
        site.status = READY
        await asyncio.sleep(SOON)
        assert site.told == UP

    run(body)


def test_a_mesh_that_is_not_in_force_yet_holds_a_new_node_back_and_only_a_new_one():
    async def body(site):
        missing = {samples.CIDR: {"code": 132, "what": "not approved", "cure": "approve it"}}
        mesh = {"mode": "tailscale", "member": True, "state": "Running", "findings": []}
        waiting = replace(READY, mesh={**mesh, "in_force": {samples.CIDR: False}, "missing": missing})
        in_force = replace(READY, mesh={**mesh, "in_force": {samples.CIDR: True}, "missing": {}})
        site.status = waiting
        await connected(site)
        assert site.told[:3] == ("True", "HeadCNIIsNotReady", ["headcni.io/not-ready"])
        await asyncio.sleep(LONG)
        assert site.events == [("Warning", "HeadCNIMeshNotInForce")]
        site.status = in_force
        await asyncio.sleep(SOON)
        assert site.told == ("False", "HeadCNIIsUp", [], "in force")
        assert site.events[1:] == [("Normal", "HeadCNIIsUp")]
        site.status = waiting
        await asyncio.sleep(SOON)
        assert site.told[:2] == ("False", "HeadCNIIsUp")
        assert site.told[3].startswith("not in force")

    run(body)


def test_while_the_api_is_away_nothing_is_lost_and_it_catches_up_by_itself():
    async def body(site):
        await connected(site)
        site.api.trouble(AWAY)
        site.status = FULL
        await asyncio.sleep(60)
        assert site.summary["up_to_date"] is False
        assert site.summary["trouble"]["what"] == AWAY.msg
        assert site.told == UP  # as far as Kubernetes knows
        site.api.recover()
        await asyncio.sleep(SOON)
        assert site.told[:2] == ("True", "HeadCNIIsNotReady")
        assert site.summary["up_to_date"] is True
        assert site.summary["since"] == pytest.approx(site.clock.wall() - SOON, abs=1)

    run(body)


def test_without_permission_it_goes_on_trying_and_says_what_is_missing():
    async def body(site):
        forbidden = Refusal(Trouble.API_FORBIDDEN, "may not patch nodes/status", "grant it")
        site.api.refuse = lambda verb, path: forbidden if verb in ("patch", "create") else None
        await connected(site)
        assert site.summary["up_to_date"] is True
        assert site.summary["trouble"]["what"] == forbidden.msg
        await asyncio.sleep(600)
        site.api.refuse = lambda verb, path: None
        await asyncio.sleep(SOON)
        assert site.told == UP
        assert site.summary["trouble"] is None

    run(body)


def test_an_api_in_trouble_is_left_for_another_one():
    async def body(site):
        await connected(site)
        other = FakeApi()
        other.put(samples.NODE, samples.node(taints=[samples.NOT_READY_TAINT]))
        site.finder.use(other)
        site.api.trouble(AWAY)
        site.api = other
        await asyncio.sleep(SOON)
        assert site.told == UP
        assert site.summary["up_to_date"] is True

    run(body)


def test_a_closed_api_is_left_as_well():
    async def body(site):
        await connected(site)
        before, site.api = site.api, FakeApi()
        site.api.put(samples.NODE, samples.node())
        site.finder.use(site.api)
        await before.close()
        await asyncio.sleep(SOON)
        assert site.told == UP

    run(body)


def test_a_node_that_kubernetes_does_not_know_yet_is_told_of_when_it_comes():
    async def body(site):
        site.api.drop(samples.NODE)
        await connected(site)
        assert site.summary["trouble"]["code"] == Trouble.NODE_UNKNOWN
        site.api.put(samples.NODE, samples.node(taints=[samples.NOT_READY_TAINT]))
        await asyncio.sleep(SOON)
        assert site.told == UP

    run(body)


def test_while_no_way_is_found_it_is_told_what_was_tried():
    async def body(site):
        site.side.reached(Reaching(None, (Attempt(WAY, AWAY),), 0.0))
        assert site.summary["trouble"] == {"code": 170, "what": AWAY.msg, "cure": AWAY.details}
        assert site.summary["tried"] == [{"way": str(WAY), "trouble": site.summary["trouble"]}]
        assert site.changes == 2  # once at the beginning

    run(body)


def test_the_pod_cidr_that_kubernetes_gives_is_handed_on_when_it_changes():
    async def body(site):
        site.api.put(samples.NODE, {"spec": {"taints": []}})
        await connected(site)
        assert site.given == []
        for cidr in (samples.CIDR, samples.CIDR, "10.244.9.0/24"):
            site.api.put(samples.NODE, samples.node(cidrs=[cidr]))
            await asyncio.sleep(1)
        assert site.given == [(ip_network(samples.CIDR),), (ip_network("10.244.9.0/24"),)]

    run(body)


def test_nothing_is_told_before_the_daemon_goes_by_the_pod_cidr_that_kubernetes_gives():
    """Else the taint would go while pods still get addresses of a guess."""

    async def body(site):
        site.settled = False
        await connected(site)
        assert site.given
        assert site.told[1:3] == (None, [samples.NOT_READY_TAINT["key"]])
        site.settled = True
        await asyncio.sleep(SOON)
        assert site.told == UP

    run(body)


def test_what_is_said_once_becomes_an_event_when_there_is_an_api():
    async def body(site):
        site.side.say("HeadCNIPodCIDRChanged", "10.244.2.0/24", "the pod CIDR is 10.244.2.0/24 now")
        await asyncio.sleep(60)
        await connected(site)
        assert ("Warning", "HeadCNIPodCIDRChanged") in site.events
        await asyncio.sleep(7200)
        assert site.events.count(("Warning", "HeadCNIPodCIDRChanged")) == 1

    run(body)


# --- records


def test_a_record_gets_the_name_of_its_pod_unless_it_is_being_worked_on():
    async def body(site):
        site.records[RECORD.key] = replace(RECORD, pod=Pod())
        site.busy.add(RECORD.key)
        await connected(site)
        await asyncio.sleep(3 * SWEEP)
        assert site.records[RECORD.key].pod == Pod()
        site.busy.clear()
        await asyncio.sleep(SWEEP)
        assert site.records[RECORD.key].pod == RECORD.pod

    run(body)


def test_a_record_whose_pod_and_namespace_are_gone_is_collected_after_the_grace_time():
    async def body(site):
        await connected(site)
        site.alive = False
        await asyncio.sleep(2 * GRACE)
        assert site.posted == []  # the API has its pod
        site.api.drop(POD_PATH)
        await asyncio.sleep(GRACE - SWEEP)
        assert site.posted == []
        await asyncio.sleep(3 * SWEEP)
        key, event = site.posted[0]
        assert key == RECORD.key
        assert isinstance(event, Delete)
        assert event.cause.startswith("garbage: its network namespace is gone and the API has no such pod")

    run(body)


def test_a_live_pod_is_not_collected_whatever_an_api_says():
    """One of another cluster, for example."""

    async def body(site):
        site.api.drop(POD_PATH)
        await connected(site)
        await asyncio.sleep(10 * GRACE)
        assert site.posted == []

    run(body)


def test_an_api_that_is_away_is_no_sign():
    async def body(site):
        await connected(site)
        site.alive = False
        site.api.drop(POD_PATH)
        await asyncio.sleep(GRACE / 2)
        site.api.trouble(AWAY)
        await asyncio.sleep(10 * GRACE)
        assert site.posted == []
        site.api.recover()
        await asyncio.sleep(GRACE - SWEEP)
        assert site.posted == []  # its grace time begins anew
        await asyncio.sleep(3 * SWEEP)
        assert site.posted != []

    run(body)


def test_without_an_api_namespace_and_runtime_suffice():
    async def body(site):
        site.alive = False
        await asyncio.sleep(SWEEP + 1)
        site.lists[RECORD.network] = RuntimeList(RECORD.created + MARGIN, frozenset())
        await asyncio.sleep(GRACE + 3 * SWEEP)
        assert [key for key, _ in site.posted][:1] == [RECORD.key]

    run(body)
