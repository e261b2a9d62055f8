"""What was seen of Kubernetes and may not be so any more: nothing is concluded from it, and no pod dies of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from reconciler.kube.codes import Trouble
from reconciler.kube.finder import Attempt, Reaching
from reconciler.kube.follow import ENDED
from reconciler.kube.garbage import GRACE, MARGIN, RuntimeList
from reconciler.kube.side import SWEEP
from statemachine.attachment import Pod
from tests.kube import samples
from tests.kube.daemonside import AWAY, POD_PATH, RECORD, SOON, WAY, connected, run

LATE = replace(RECORD, container="late", pod=Pod("default", "late", "uid-of-late"))


def missed_by_the_runtime(site):
    """And from here the namespaces cannot be seen, so that what the API says decides."""
    site.alive = None
    site.lists[RECORD.network] = RuntimeList(RECORD.created + MARGIN, frozenset())


async def a_pod_comes(site):
    """Which the API knows, if it is asked."""
    site.records = {LATE.key: LATE}
    await asyncio.sleep(SWEEP + 1)
    missed_by_the_runtime(site)
    await asyncio.sleep(GRACE + 3 * SWEEP)


def test_a_way_that_was_given_up_is_told_though_there_is_no_other():
    async def body(site):
        await connected(site)
        site.finder.there.clear()
        await site.api.close()
        await asyncio.sleep(SOON)
        assert site.summary["up_to_date"] is False
        assert site.summary["trouble"]["what"] == ENDED.msg
        await a_pod_comes(site)
        assert site.posted == []

    run(body)


def test_after_a_fault_it_does_not_go_on_with_what_it_saw_before():
    async def body(site):
        await connected(site)
        site.finder.there.clear()
        again = asyncio.create_task(site.side.attend(site.finder))
        await asyncio.sleep(SOON)
        assert site.summary["up_to_date"] is False
        assert site.summary["endpoint"] == ""
        assert site.summary["condition"] == "False HeadCNIIsUp"  # it is known, but may be old
        assert site.side._view.pods is None
        await a_pod_comes(site)
        assert site.posted == []
        again.cancel()
        await asyncio.wait({again})

    run(body)


def test_a_way_that_is_lost_makes_old_what_its_watches_saw():
    """They may hang, and not know it."""

    async def body(site):
        await connected(site)
        site.side.reached(Reaching(None, (Attempt(WAY, AWAY),), site.clock.wall()))
        await a_pod_comes(site)
        assert site.posted == []

    run(body)


def test_by_a_name_that_is_not_this_node_s_no_pod_is_gone():
    """No pod is on a node of such a name."""

    async def body(site):
        site.alive = False
        site.api.drop(samples.NODE)
        site.api.drop(POD_PATH)
        await connected(site)
        assert site.summary["trouble"]["code"] == Trouble.NODE_UNKNOWN
        await asyncio.sleep(3 * GRACE)
        assert site.posted == []

    run(body)


def test_what_is_being_worked_on_is_not_collected():
    async def body(site):
        await connected(site)
        site.alive = False
        site.busy.add(RECORD.key)
        site.api.drop(POD_PATH)
        await asyncio.sleep(3 * GRACE)
        assert site.posted == []
        site.busy.clear()
        await asyncio.sleep(SWEEP)
        assert [key for key, _ in site.posted] == [RECORD.key]

    run(body)


def test_a_clock_that_is_set_back_makes_no_new_pod_old():
    async def body(site):
        missed_by_the_runtime(site)
        site.alive = False
        await asyncio.sleep(SWEEP)
        site.records = {LATE.key: replace(LATE, created=RECORD.created - 3600)}
        await asyncio.sleep(3 * GRACE)
        assert site.posted == []

    run(body)
