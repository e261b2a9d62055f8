"""What becomes of the mesh's troubles in time: a moment of them is no event, and nobody waits for a person."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from reconciler.kube.lasting import LONG
from reconciler.kube.side import LOOK
from tests.kube import samples
from tests.kube.daemonside import READY, SOON, connected, run

WAITS = ("True", "HeadCNIIsNotReady", ["headcni.io/not-ready"])
UP = ("False", "HeadCNIIsUp", [])
NOT_IN_FORCE = ("Warning", "HeadCNIMeshNotInForce")
JUST_NOT = LONG - SOON - 2 * LOOK  # after `connected`


def in_mesh(**parts):
    mesh = {"mode": "tailscale", "state": "Running", "member": True, "missing": {}, "findings": [], **parts}
    return replace(READY, mesh={**mesh, "in_force": {samples.CIDR: not mesh["missing"]}})


def trouble(code, what):
    return {"code": code, "what": what, "cure": f"mend {code}"}


def outside(code, what="the key is refused"):
    missing = {samples.CIDR: trouble(131, "not announced")}
    return in_mesh(state="NeedsLogin", member=False, missing=missing, findings=[trouble(code, what)])


IN_FORCE = in_mesh()
JOINING = in_mesh(state="NeedsLogin", member=False)
REFUSED = outside(126)


def approval(*names):
    return in_mesh(missing=dict.fromkeys(names or [samples.CIDR], trouble(132, "not approved")))


def message(site):
    conditions = site.api.objects[samples.NODE]["status"]["conditions"]
    return next(each["message"] for each in conditions if each["type"] == "NetworkUnavailable")


# --- events


def test_a_prefix_that_waits_a_moment_for_its_approval_is_no_event():
    async def body(site):
        site.status = approval()
        await connected(site)
        await asyncio.sleep(JUST_NOT)
        assert site.told[:3] == WAITS
        site.status = IN_FORCE
        await asyncio.sleep(LONG)
        assert site.events == [("Normal", "HeadCNIIsUp")]

    run(body)


def test_what_goes_and_comes_back_begins_anew():
    async def body(site):
        site.status = IN_FORCE
        await connected(site)
        for _ in range(3):
            site.status = approval()
            await asyncio.sleep(LONG - 2 * LOOK)
            site.status = IN_FORCE
            await asyncio.sleep(2 * LOOK)
        assert NOT_IN_FORCE not in site.events
        site.status = approval()
        await asyncio.sleep(LONG + SOON)
        assert site.events.count(NOT_IN_FORCE) == 1

    run(body)


def test_another_trouble_does_not_stop_the_clock_of_the_first():
    async def body(site):
        site.status = approval()
        await connected(site)
        await asyncio.sleep(JUST_NOT)
        site.status = approval(samples.CIDR, "fd00::/64")
        await asyncio.sleep(SOON)
        assert site.events == [NOT_IN_FORCE]
        await asyncio.sleep(LONG)
        assert site.events == [NOT_IN_FORCE] * 2

    run(body)


# --- a new node


def test_a_node_whose_key_is_refused_serves_its_own_pods_and_says_so():
    async def body(site):
        site.status = REFUSED
        await connected(site)
        await asyncio.sleep(JUST_NOT)
        assert site.told[:3] == WAITS
        assert site.events == []
        await asyncio.sleep(SOON)
        assert site.told == (*UP, "not in force: the key is refused")
        assert "on this node only: the mesh is not in force: the key is refused" in message(site)
        assert sorted(site.events) == [("Normal", "HeadCNIIsUp"), NOT_IN_FORCE]
        site.status = IN_FORCE
        await asyncio.sleep(SOON)
        assert site.told == (*UP, "in force")
        assert "on this node only" not in message(site)

    run(body)


def test_one_thing_after_the_other_that_a_person_must_mend_is_not_waited_for_either():
    async def body(site):
        site.status = outside(124, "it does not let this node in")
        await connected(site)
        await asyncio.sleep(JUST_NOT)
        site.status = REFUSED
        await asyncio.sleep(SOON)
        assert site.told[:3] == UP
        assert NOT_IN_FORCE not in site.events  # neither has lasted by itself

    run(body)


def test_a_join_between_two_refusals_is_waited_for():
    async def body(site):
        site.status = REFUSED
        await connected(site)
        await asyncio.sleep(JUST_NOT)
        site.status = JOINING
        await asyncio.sleep(2 * LOOK)
        site.status = REFUSED
        await asyncio.sleep(LONG - 2 * LOOK)
        assert site.told[:3] == WAITS
        await asyncio.sleep(SOON)
        assert site.told[:3] == UP
        site.status = JOINING  # the next try of the same key
        await asyncio.sleep(SOON)
        assert site.told[:3] == UP
        assert "on this node only" in message(site)

    run(body)


@pytest.mark.parametrize("status", [approval(), JOINING, outside(138)], ids=["approval", "join", "outage"])
def test_what_comes_by_itself_is_waited_for_however_long_it_takes(status):
    async def body(site):
        site.status = status
        await connected(site)
        await asyncio.sleep(3600)
        assert site.told[:3] == WAITS

    run(body)


def test_what_lasts_while_the_api_is_away_has_lasted():
    async def body(site):
        site.status = REFUSED
        await asyncio.sleep(LONG)
        await connected(site)
        assert site.told[:3] == UP

    run(body)


# --- a node that was told of before


def test_a_restarted_daemon_counts_anew_and_takes_nothing_back():
    left = {}

    async def before(site):
        site.status = REFUSED
        await connected(site)
        await asyncio.sleep(LONG)
        assert site.told[:3] == UP
        left.update(node=site.api.objects[samples.NODE], message=message(site))

    async def after(site):
        site.api.put(samples.NODE, left["node"])
        site.status = replace(READY, mesh={"mode": "tailscale"})  # not looked at yet
        await connected(site)
        assert site.told[:3] == UP
        site.status = REFUSED
        await asyncio.sleep(SOON)
        assert (site.told[:3], message(site)) == (UP, left["message"])
        assert NOT_IN_FORCE not in site.events
        await asyncio.sleep(LONG)
        assert NOT_IN_FORCE in site.events

    run(before)
    run(after)


def test_after_a_fault_of_this_side_it_counts_anew():
    async def body(site):
        site.status = REFUSED
        await connected(site)
        await asyncio.sleep(JUST_NOT)
        site.finder.there.clear()
        again = asyncio.create_task(site.side.attend(site.finder))
        await asyncio.sleep(0)
        await connected(site)
        await asyncio.sleep(JUST_NOT)
        assert site.told[:3] == WAITS
        again.cancel()

    run(body)


def test_a_node_that_was_in_the_mesh_stays_up_when_its_key_is_refused():
    async def body(site):
        site.status = IN_FORCE
        await connected(site)
        before = message(site)
        site.status = REFUSED
        await asyncio.sleep(SOON)
        assert (site.told[:3], message(site)) == (UP, before)
        await asyncio.sleep(LONG)
        assert site.told[:3] == UP
        assert "on this node only" in message(site)

    run(body)
