"""What a daemon makes of each record and intent it finds: the whole table, cell by cell."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from samples import BOOT, in_state

from statemachine.attachment import State
from statemachine.intent import Intent, parse_name
from statemachine.machine import Delete, Lost, Resume, decide
from statemachine.replay import Fate, World, plan_intent, plan_restart

GONE = "its network namespace is gone"
YES, NO, UNKNOWN = True, False, None


def plan(record, alive=UNKNOWN, linked=UNKNOWN, pending=False, boot_id=BOOT):
    key = record.key
    adds = frozenset({key}) if pending else frozenset()
    event = plan_restart(record, World(boot_id, {key: alive}, {key: linked}, adds))
    return {Resume: "resume", Lost: "lost"}.get(type(event)) or (f"delete: {event.cause}" if event else "keep")


ALLOCATED_AND_LOST = in_state(State.ALLOCATED, answered=True)
IPAM_ONLY = in_state(State.ALLOCATED, goal=State.ALLOCATED, answered=True)


@pytest.mark.parametrize(
    ("record", "alive", "linked", "expected"),
    [
        (in_state(State.WIRED), YES, YES, "resume"),
        (in_state(State.WIRED), YES, NO, "lost"),
        (in_state(State.WIRED), YES, UNKNOWN, "resume"),
        (in_state(State.WIRED), NO, YES, "resume"),
        (in_state(State.WIRED), NO, NO, f"delete: {GONE}"),
        (in_state(State.WIRED), NO, UNKNOWN, "resume"),
        (in_state(State.WIRED), UNKNOWN, YES, "resume"),
        (in_state(State.WIRED), UNKNOWN, NO, "resume"),
        (in_state(State.WIRED), UNKNOWN, UNKNOWN, "resume"),
        (in_state(State.ADVERTISED), YES, YES, "keep"),
        (in_state(State.ADVERTISED), YES, NO, "lost"),
        (in_state(State.ADVERTISED), YES, UNKNOWN, "keep"),
        (in_state(State.ADVERTISED), NO, YES, "keep"),
        (in_state(State.ADVERTISED), NO, NO, f"delete: {GONE}"),
        (in_state(State.ADVERTISED), NO, UNKNOWN, "keep"),
        (in_state(State.ADVERTISED), UNKNOWN, YES, "keep"),
        (in_state(State.ADVERTISED), UNKNOWN, NO, "keep"),
        (in_state(State.ADVERTISED), UNKNOWN, UNKNOWN, "keep"),
        (ALLOCATED_AND_LOST, YES, YES, "resume"),
        (ALLOCATED_AND_LOST, YES, NO, "resume"),
        (ALLOCATED_AND_LOST, YES, UNKNOWN, "resume"),
        (ALLOCATED_AND_LOST, NO, YES, "resume"),
        (ALLOCATED_AND_LOST, NO, NO, f"delete: {GONE}"),
        (ALLOCATED_AND_LOST, NO, UNKNOWN, "resume"),
        (ALLOCATED_AND_LOST, UNKNOWN, YES, "resume"),
        (ALLOCATED_AND_LOST, UNKNOWN, NO, "resume"),
        (ALLOCATED_AND_LOST, UNKNOWN, UNKNOWN, "resume"),
        (IPAM_ONLY, YES, YES, "keep"),
        (IPAM_ONLY, YES, NO, "keep"),
        (IPAM_ONLY, YES, UNKNOWN, "keep"),
        (IPAM_ONLY, NO, YES, "keep"),
        (IPAM_ONLY, NO, NO, "keep"),
        (IPAM_ONLY, NO, UNKNOWN, "keep"),
        (IPAM_ONLY, UNKNOWN, YES, "keep"),
        (IPAM_ONLY, UNKNOWN, NO, "keep"),
        (IPAM_ONLY, UNKNOWN, UNKNOWN, "keep"),
    ],
)
def test_what_the_runtime_was_told_of(record, alive, linked, expected):
    assert plan(record, alive, linked) == expected
    assert plan(record, alive, linked, pending=True) == expected


EVERYTHING = list(itertools.product((YES, NO, UNKNOWN), (YES, NO, UNKNOWN), (True, False)))


@pytest.mark.parametrize("state", [State.REQUESTED, State.ALLOCATED])
@pytest.mark.parametrize(("alive", "linked", "pending"), EVERYTHING)
def test_what_nobody_was_told_of_lives_only_for_the_add_that_waits(state, alive, linked, pending):
    expected = "keep" if pending else "delete: the ADD that made it is gone"
    assert plan(in_state(state), alive, linked, pending) == expected


@pytest.mark.parametrize("state", [State.TEARING_DOWN, State.TORN_DOWN])
@pytest.mark.parametrize(("alive", "linked", "pending"), EVERYTHING)
def test_a_teardown_goes_on_in_any_world(state, alive, linked, pending):
    assert plan(in_state(state), alive, linked, pending) == "resume"
    assert plan(in_state(state), alive, linked, pending, boot_id="another") == "resume"


@pytest.mark.parametrize("record", [in_state(State.REQUESTED), in_state(State.ADVERTISED), IPAM_ONLY])
@pytest.mark.parametrize(("alive", "linked", "pending"), EVERYTHING)
def test_another_boot_is_over_even_if_a_namespace_of_that_number_exists(record, alive, linked, pending):
    assert plan(record, alive, linked, pending, boot_id="another") == f"delete: made in another boot ({BOOT})"


def test_what_was_not_looked_up_is_unknown():
    assert plan_restart(in_state(State.ADVERTISED), World(BOOT)) is None


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize(("alive", "linked", "pending"), EVERYTHING)
def test_the_machine_accepts_every_plan(state, answered, alive, linked, pending):
    record = in_state(state, answered=answered)
    for boot_id in (BOOT, "another"):
        adds = frozenset({record.key}) if pending else frozenset()
        event = plan_restart(record, World(boot_id, {record.key: alive}, {record.key: linked}, adds))
        if event is not None:
            decide(record, event, 0.0)


@pytest.mark.parametrize("alive", [YES, UNKNOWN])
@pytest.mark.parametrize("linked", [YES, NO, UNKNOWN])
@pytest.mark.parametrize("record", [in_state(State.WIRED), in_state(State.ADVERTISED), ALLOCATED_AND_LOST, IPAM_ONLY])
def test_a_pod_that_may_live_is_never_torn_down(record, alive, linked):
    assert not plan(record, alive, linked).startswith("delete")


# --- intents


def call(verb, deadline_ns):
    return replace(Intent(parse_name(f"42.7-abc@eth0.{verb}.json")), deadline_ns=deadline_ns, boot_id=BOOT)


@pytest.mark.parametrize(
    ("intent", "answered", "fate"),
    [
        (call("ADD", 101), False, Fate.EXECUTE),
        (call("ADD", 99), False, Fate.DISCARD),
        (call("ADD", 101), True, Fate.UNLINK),
        (call("ADD", 99), True, Fate.UNLINK),
        (call("DEL", 99), False, Fate.EXECUTE),
        (call("DEL", 99), True, Fate.UNLINK),
    ],
)
def test_an_intent_is_executed_once_and_in_time(intent, answered, fate):
    assert plan_intent(intent, answered, BOOT, 100) is fate


def test_an_add_of_another_boot_is_discarded_and_a_delete_is_not():
    assert plan_intent(call("ADD", 10**18), False, "another", 0) is Fate.DISCARD
    assert plan_intent(call("DEL", 10**18), False, "another", 0) is Fate.EXECUTE


def test_events_are_what_the_daemon_posts():
    record = in_state(State.ADVERTISED)
    assert plan_restart(record, World(BOOT, {record.key: False}, {record.key: False})) == Delete(GONE)
