"""When the kernel is looked at: soon after it told anything, rarely without, and each second while a gap is open."""

from __future__ import annotations

import asyncio
import logging

from fixtures.meshsim import MeshSim, play
from reconciler.mesh.loop import RELIST
from reconciler.mesh.side import FENCE_ANYWAY, FENCE_SECONDS
from reconciler.node.wish import Problem

GAP = Problem("no fence for 10.244.0.0/16", "see the log")


async def quiet(sim: MeshSim) -> None:
    """Joined, in force, and the kernel has nothing to tell."""
    sim.join()
    sim.start()
    await sim.until_in_force()
    sim.kernel_news.always = False
    await asyncio.sleep(2)
    sim.host.looks.clear()


def test_a_fence_that_nobody_touches_is_looked_at_rarely(tmp_path):
    async def story(sim):
        await quiet(sim)
        await asyncio.sleep(10 * FENCE_ANYWAY)
        assert 8 <= len(sim.host.looks) <= 10
        apart = [after - before for before, after in zip(sim.host.looks, sim.host.looks[1:], strict=False)]
        assert max(apart) <= FENCE_ANYWAY + FENCE_SECONDS

    play(tmp_path, story)


def test_it_is_looked_at_within_a_second_of_any_change(tmp_path):
    async def story(sim):
        await quiet(sim)
        for _ in range(7):
            await asyncio.sleep(0.3)
            sim.host.looks.clear()
            sim.kernel_news.happens()
            await sim.until(lambda: sim.host.looks, FENCE_SECONDS + 0.2)

    play(tmp_path, story)


def test_while_a_gap_is_open_it_is_looked_at_each_second(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "headcni")

    async def story(sim):
        await quiet(sim)
        sim.host.gaps = sim.host.left = (GAP,)
        sim.kernel_news.happens()
        await asyncio.sleep(10.5)
        assert len(sim.host.looks) >= 10
        assert caplog.messages.count(f"mesh: {GAP}") == 1
        sim.host.left = ()
        await sim.until(lambda: not sim.host.gaps, 1.5)

    play(tmp_path, story)


def test_without_news_only_the_turns_of_the_loop_look_at_routes(tmp_path):
    async def story(sim):
        await quiet(sim)
        before = sim.kernel.looks
        await asyncio.sleep(10 * RELIST)
        assert 8 <= sim.kernel.looks - before <= 12

    play(tmp_path, story)


def test_an_mtu_that_was_changed_by_hand_is_shown_at_once(tmp_path):
    async def story(sim):
        await quiet(sim)
        sim.kernel.mtu = 1400
        sim.kernel_news.happens()
        await sim.until(lambda: sim.view.device.mtu == 1400, 1.5)

    play(tmp_path, story)
