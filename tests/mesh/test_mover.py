"""Attachments move with the mesh's conclusions: at once to advertised, after a moment from it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

from cni.spec import Refusal
from fixtures.meshsim import waiting, wired
from reconciler.mesh.advertiser import MeshAdvertiser
from reconciler.mesh.codes import Trouble
from reconciler.mesh.model import Chain, Holds, Link, LinkState
from reconciler.mesh.mover import PATIENCE, Mover
from statemachine.attachment import State
from statemachine.machine import Hidden, Resume

POD = wired()
WAITING = waiting(POD)
ADVERTISED = replace(POD, state=State.ADVERTISED)
UNAPPROVED = Refusal(Trouble.NOT_APPROVED, "10.244.1.0/24 is not approved", "approve it")


def chain(holds):
    state = LinkState(holds, "", None if holds is Holds.YES else UNAPPROVED)
    return (Chain(ip_network("10.244.1.0/24"), dict.fromkeys(Link, state)),)


class World:
    def __init__(self, *records):
        self.posted = []
        self.records = {str(number): replace(each, container=str(number)) for number, each in enumerate(records)}
        self.advertiser = MeshAdvertiser(lambda: None)
        self.mover = Mover(self.advertiser, lambda: self.records, lambda key, event: self.posted.append((key, event)))

    def look(self, holds, at):
        self.advertiser.chains = chain(holds)
        self.posted.clear()
        self.mover.look(at)
        return [type(event) for _, event in self.posted]


def test_what_waits_is_resumed_as_soon_as_its_prefix_is_in_force():
    world = World(WAITING, POD, replace(WAITING, state=State.ALLOCATED))
    assert world.look(Holds.NO, 0.0) == []
    assert world.look(Holds.YES, 0.1) == [Resume], "only what waits for advertising; the engine is at the others"


def test_what_is_hidden_is_moved_after_a_moment_and_all_of_it():
    world = World(ADVERTISED, ADVERTISED, POD)
    assert world.look(Holds.YES, 0.0) == []
    assert world.look(Holds.NO, 1.0) == []
    assert world.look(Holds.NO, 1.0 + PATIENCE - 0.1) == []
    assert world.look(Holds.NO, 1.0 + PATIENCE) == [Hidden, Hidden]
    assert world.posted[0][1] == Hidden(UNAPPROVED), "with the reason"


def test_a_moment_that_passes_begins_anew_with_the_next():
    world = World(ADVERTISED)
    assert world.look(Holds.NO, 0.0) == []
    assert world.look(Holds.YES, 2.0) == []
    assert world.look(Holds.NO, 2.5) == []
    assert world.look(Holds.NO, 2.5 + PATIENCE - 0.1) == []
    assert world.look(Holds.NO, 2.5 + PATIENCE) == [Hidden]


def test_after_a_start_nothing_is_hidden_before_the_first_look():
    """A daemon that comes back finds records that say advertised, and has not asked anybody yet."""
    world = World(ADVERTISED)
    world.mover.look(0.0)
    world.mover.look(PATIENCE - 0.1)
    assert world.posted == []


def test_a_record_is_judged_once_by_the_same_conclusions(monkeypatch):
    world = World(ADVERTISED, WAITING)
    world.advertiser.chains = chain(Holds.NO)
    missing, asked = world.advertiser.missing, []
    monkeypatch.setattr(world.advertiser, "missing", lambda record: (asked.append(record.key), missing(record))[1])
    for second in range(3):
        world.mover.look(float(second))
    assert len(asked) == 2
    world.advertiser.chains = chain(Holds.YES)
    world.mover.look(3.0)
    assert len(asked) == 4


def test_a_record_that_changed_is_judged_anew_and_one_that_went_is_forgotten():
    world = World(ADVERTISED)
    (key,) = world.records
    world.advertiser.chains = chain(Holds.YES)
    world.mover.look(0.0)
    elsewhere = tuple([replace(each, address="10.244.9.7/24") for each in ADVERTISED.addresses])
    world.records[key] = replace(world.records[key], addresses=elsewhere)
    world.mover.look(1.0)
    world.mover.look(1.0 + PATIENCE)
    ((_, hidden),) = world.posted
    assert hidden.refusal.code == Trouble.NOT_ANNOUNCED
    world.posted.clear()
    world.records.clear()
    world.mover.look(10.0)
    assert world.posted == []
