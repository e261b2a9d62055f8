"""What overlaps and who hinders is said once, withdrawn when it is over, and looked at in its turn."""

from __future__ import annotations

import asyncio
import logging
from ipaddress import ip_network
from pathlib import Path

import pytest

from cni.spec import Refusal
from reconciler.node import lookout
from reconciler.node.clash import Overlap, Ranges
from reconciler.node.lookout import FIRST_SECONDS, NEIGHBOURS_SECONDS, Lookout
from reconciler.node.wish import Problem
from reconciler.operate.log import Once

RANGES = Ranges((ip_network("10.244.1.0/24"),))


def found(what, fatal=False):
    return Overlap("", "", "", fatal, Refusal(166, what, "move it"))


class World:
    def __init__(self, monkeypatch):
        self.overlaps, self.hindrances, self.clock, self.changes, self.looks = [], [], 1000.0, 0, 0
        monkeypatch.setattr(lookout.time, "monotonic", lambda: self.clock)
        monkeypatch.setattr(lookout.overlap, "look", lambda ranges: tuple(self.overlaps))
        monkeypatch.setattr(lookout, "hindrances", self._look)
        self.once = Once(logging.getLogger("test"))
        self.lookout = Lookout(self.once, self._changed)

    def _look(self, ranges, root, conf_dir):
        self.looks += 1
        return self.hindrances

    def _changed(self):
        self.changes += 1

    def look(self):
        return asyncio.run(self.lookout.overlaps(RANGES))

    def look_at_neighbours(self, after):
        self.clock += after
        asyncio.run(self.lookout.neighbours(RANGES, Path("/"), "/etc/cni/net.d"))


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


def test_overlaps_are_said_once_and_withdrawn(world):
    assert world.look() == ()
    assert world.changes == 0
    world.overlaps = [found("a overlaps b")]
    for _ in range(3):
        assert world.look() == ()
    assert world.once.said == ["a overlaps b; move it"]
    assert world.changes == 1
    world.overlaps = [found("c overlaps d")]
    world.look()
    assert world.once.said == ["c overlaps d; move it"]
    world.overlaps = []
    world.look()
    assert world.once.said == []
    assert world.changes == 3


def test_those_that_break_traffic_are_handed_back_as_well(world):
    world.overlaps = [found("a overlaps b", fatal=True), found("c overlaps d")]
    assert world.look() == (Problem("a overlaps b", "move it"),)
    assert len(world.once.said) == 2


def test_neighbours_have_their_turn(world):
    world.hindrances = [Refusal(191, "it drops", "let it pass")]
    world.look_at_neighbours(0)
    world.look_at_neighbours(FIRST_SECONDS - 1)
    assert (world.looks, world.once.said) == (0, [])
    world.look_at_neighbours(1)
    assert (world.looks, world.once.said) == (1, ["it drops; let it pass"])
    world.hindrances = []
    world.look_at_neighbours(NEIGHBOURS_SECONDS - 1)
    assert world.looks == 1
    world.look_at_neighbours(1)
    assert (world.looks, world.once.said) == (2, [])


def test_neither_withdraws_what_the_other_said(world):
    world.overlaps, world.hindrances = [found("a overlaps b")], [Refusal(191, "it drops", "")]
    world.look()
    world.look_at_neighbours(FIRST_SECONDS)
    world.look()
    assert len(world.once.said) == 2


def test_a_look_that_hangs_is_given_up_and_said(world, monkeypatch):
    monkeypatch.setattr(lookout, "PATIENCE_SECONDS", 0.0)
    world.look_at_neighbours(FIRST_SECONDS)
    assert world.once.said == [f"{lookout.HANGS.msg}; {lookout.HANGS.details}"]
