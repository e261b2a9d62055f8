"""Other hands on the same tailscaled: somebody writes at the same time, undoes what the daemon does, or owns the node.

Nobody's change is lost, nobody is fought, and a node that is joined elsewhere is not touched at all.
"""

from __future__ import annotations

import asyncio

import pytest

from fixtures.headscale import Fault
from fixtures.meshsim import FOREIGN, OWN, MeshSim, play
from reconciler.mesh.codes import Trouble
from reconciler.mesh.leave import leave
from reconciler.mesh.loop import REPAIR_FILE
from reconciler.mesh.preferences import PEACE

THEIRS = "192.168.44.0/24"
ELSEWHERE = "https://login.example.com"


class Rival:
    """Another program that undoes a change as soon as it hears of it."""

    def __init__(self, sim: MeshSim, name: str, value: object) -> None:
        self.strokes = 0
        tell = sim.node.tell

        def heard(said: dict) -> None:
            tell(said)
            if "Prefs" in said and sim.node.prefs[name] != value:
                asyncio.get_running_loop().call_later(0.05, strike)

        def strike() -> None:
            if sim.node.prefs[name] != value:
                self.strokes += 1
                sim.node.edit(**{name: value})

        sim.node.tell = heard


# --- at the same time

GAPS = pytest.mark.parametrize("gap", [0.02, 0.0])  # seconds between their write and ours


@GAPS
def test_routes_that_somebody_adds_between_our_look_and_our_write_are_put_back(tmp_path, gap):
    async def story(sim):
        sim.join()

        def write():
            sim.node.edit(AdvertiseRoutes=[*sim.announced, THEIRS])

        sim.tailscaled.inject("PATCH", "prefs", Fault(act=write, delay=gap, times=1))
        sim.start()
        await sim.until_in_force()
        sim.foreign = (*FOREIGN, THEIRS)
        assert set(sim.announced) == {*sim.foreign, *OWN}
        assert any("at the same time" in each for each in sim.view.log)

    play(tmp_path, story)


@GAPS
def test_routes_that_somebody_removes_between_our_look_and_our_write_stay_removed(tmp_path, gap):
    async def story(sim):
        sim.join()

        def write():
            sim.node.edit(AdvertiseRoutes=list(FOREIGN[1:]))

        sim.tailscaled.inject("PATCH", "prefs", Fault(act=write, delay=gap, times=1))
        sim.start()
        await sim.until_in_force()
        sim.foreign = FOREIGN[1:]
        assert set(sim.announced) == {*sim.foreign, *OWN}

    play(tmp_path, story)


@pytest.mark.parametrize("routes", [("172.30.0.0/24", "10.9.0.0/16", "172.30.0.0/24"), ("::/0", "0.0.0.0/0"), ()])
def test_what_is_foreign_keeps_its_order_and_its_doubles(tmp_path, routes):
    async def story(sim):
        sim.foreign = routes
        sim.join()
        sim.start()
        await sim.until_in_force()
        assert sim.announced == (*routes, *OWN)
        sim.node.edit(AdvertiseRoutes=[*routes, *OWN, THEIRS])
        sim.foreign = (*routes, THEIRS)
        await sim.until(lambda: sim.view.foreign == sim.foreign, 5, "the view says so")
        assert sim.announced == (*routes, *OWN, THEIRS)

    play(tmp_path, story)


def test_what_stood_there_before_us_is_in_force_and_stays_when_we_go(tmp_path):
    async def story(sim):
        sim.foreign = (*FOREIGN, OWN[0])
        sim.join()
        sim.start()
        await sim.until_in_force()
        assert sim.announced == (*FOREIGN, *OWN)
        await sim.kill()
        await leave(sim.store, sim.tailscaled.socket)
        assert sim.announced == sim.foreign

    play(tmp_path, story)


# --- against us


def test_who_turns_a_preference_back_each_time_is_told_of_and_not_fought(tmp_path):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        rival = Rival(sim, "RouteAll", False)
        sim.node.edit(RouteAll=False)
        told = await sim.until_told(Trouble.PREFERENCE, "RouteAll is false", "3 times", within=10)
        assert "headcni mesh repair" in told.details
        await sim.always(lambda: not sim.node.prefs["RouteAll"], 20, "it is left alone")
        assert rival.strokes == 3
        assert sim.says(Trouble.PREFERENCE, "RouteAll")

        sim.store.write(REPAIR_FILE, b"")
        await sim.until(lambda: rival.strokes > 3, 5, "an operator's word counts")
        await sim.until(lambda: not (sim.store.root / REPAIR_FILE).exists(), 5, "which is said by removing the file")

    play(tmp_path, story)


def test_who_ends_the_fight_is_followed_in_peace(tmp_path):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        plain = sim.node.tell
        Rival(sim, "RouteAll", False)
        sim.node.edit(RouteAll=False)
        await sim.until_told(Trouble.PREFERENCE, "3 times", within=10)
        sim.node.tell = plain
        await sim.until(lambda: sim.node.prefs["RouteAll"], PEACE + 60, "tried again after ten minutes")
        await sim.until(lambda: not sim.troubles(), 5, "all is well")

    play(tmp_path, story)


def test_who_takes_our_routes_away_each_time_is_told_of_and_not_fought(tmp_path):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        rival = Rival(sim, "AdvertiseRoutes", list(FOREIGN))
        sim.node.edit(AdvertiseRoutes=list(FOREIGN))
        await sim.until_told(Trouble.NOT_ANNOUNCED, OWN[0], "who else writes", within=15)
        strokes = rival.strokes
        assert strokes <= 5
        await sim.always(lambda: sim.says(Trouble.NOT_ANNOUNCED, OWN[0], "who else writes"), 30)
        assert rival.strokes == strokes, "each stroke makes Headscale compute all maps anew"
        sim.store.write(REPAIR_FILE, b"")
        await sim.until(lambda: rival.strokes > strokes, 5, "an operator's word counts")

    play(tmp_path, story)


def test_where_preferences_are_not_ours_to_set_they_are_only_told(tmp_path):
    async def story(sim):
        sim.join(RouteAll=False, ShieldsUp=True)
        sim.start(**{"mesh.repairPreferences": "false"})
        told = await sim.until_told(Trouble.PREFERENCE, "RouteAll is false", "ShieldsUp is true", "must be")
        assert "tailscale set" in told.details
        await sim.always(lambda: not sim.node.prefs["RouteAll"] and sim.node.prefs["ShieldsUp"], 20)
        assert set(sim.writes()) <= {"PATCH prefs", "POST start"}
        sim.reload(**{"mesh.repairPreferences": "true"})
        await sim.until(lambda: sim.node.prefs["RouteAll"] and not sim.node.prefs["ShieldsUp"], 35, "set at last")

    play(tmp_path, story)


@pytest.mark.parametrize(("name", "value"), [("RouteAll", False), ("NoSNAT", False), ("ShieldsUp", True)])
def test_who_turns_one_back_once_is_undone_within_a_second(tmp_path, name, value):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        sim.node.edit(**{name: value})
        await sim.until(lambda: sim.node.prefs[name] != value, 1, "set again")
        await sim.until(lambda: any(name in each for each in sim.view.log), 2, "and told")

    play(tmp_path, story)


def test_a_node_that_was_stopped_by_hand_is_brought_up(tmp_path):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        sim.node.edit(WantRunning=False)
        await sim.until(lambda: sim.node.state == "Running", 2, "up again")
        await sim.until_in_force()

    play(tmp_path, story)


def test_a_node_stopped_by_hand_stays_so_where_nobody_knows_whose_it_is(tmp_path):
    async def story(sim):
        sim.join(WantRunning=False)
        sim.node.state = "Stopped"
        sim.start(**{"headscale.url": ""})
        await sim.until_told(Trouble.MESH_STOPPED, "tailscale up")
        await sim.always(lambda: sim.writes() == [], 10)

    play(tmp_path, story)


# --- at home there


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("approval", ["auto", "key"])
def test_a_node_that_is_joined_elsewhere_is_never_written_to(tmp_path, approval, running):
    async def story(sim):
        sim.node.be_joined(ELSEWHERE, AdvertiseRoutes=list(FOREIGN), RouteAll=False, ShieldsUp=True)
        if not running:
            sim.node.edit(WantRunning=False)
        before = dict(sim.node.prefs)
        sim.start()
        told = await sim.until_told(Trouble.JOINED_ELSEWHERE, ELSEWHERE, sim.url)
        assert "headscale.url" in told.details
        sim.node.disapprove(*FOREIGN)
        sim.tailscaled.cut_bus()
        sim.store.write(REPAIR_FILE, b"")
        await sim.always(lambda: True, 20)
        await sim.tailscaled.restart()
        await sim.always(lambda: not sim.in_force, 10)
        assert sim.writes() == []
        assert sim.node.prefs == before
        assert not [each for each in sim.headscale.calls if each.startswith("POST")]

    play(tmp_path, story, approval=approval)


def test_a_node_that_moves_elsewhere_is_let_go_with_what_it_has(tmp_path):
    """What was announced at the old server is not withdrawn at the new one, for there it is not ours."""

    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        sim.node.prefs = {**sim.node.prefs, "ControlURL": ELSEWHERE}
        sim.tailscaled.calls.clear()
        sim.tailscaled.flood(1)
        await sim.until_told(Trouble.JOINED_ELSEWHERE, ELSEWHERE)
        await sim.always(lambda: sim.writes() == [], 10)
        sim.node.prefs = {**sim.node.prefs, "ControlURL": sim.url}
        sim.tailscaled.flood(1)
        await sim.until_in_force()

    play(tmp_path, story)
