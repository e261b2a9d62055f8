"""The table of states, and what is decided in each of them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import BORN, in_state, requested

from cni.spec import Code, Refusal
from statemachine.attachment import State, decode, encode
from statemachine.machine import (
    BACKOFF,
    NEXT_STEP,
    PERMANENT,
    TRANSITIONS,
    Answer,
    Backoff,
    Close,
    Delete,
    Do,
    Done,
    Failed,
    Hidden,
    IllegalTransition,
    Lost,
    Resume,
    RetryAfter,
    Step,
    decide,
    next_step,
)

LEGAL = {
    ("requested", "allocated"): "allocated",
    ("allocated", "wired"): "wired",
    ("wired", "advertised"): "advertised",
    ("advertised", "hidden"): "wired",
    ("wired", "lost"): "allocated",
    ("advertised", "lost"): "allocated",
    ("requested", "delete"): "tearing-down",
    ("allocated", "delete"): "tearing-down",
    ("wired", "delete"): "tearing-down",
    ("advertised", "delete"): "tearing-down",
    ("tearing-down", "gone"): "torn-down",
}
EVENT_OF = {
    "allocated": Done(Step.ALLOCATE, 1.0, {}),
    "wired": Done(Step.WIRE, 1.0, {}),
    "advertised": Done(Step.ADVERTISE, 1.0, {}),
    "gone": Done(Step.TEAR_DOWN, 1.0, {}),
    "lost": Lost("link gone"),
}
ENDING = (State.TEARING_DOWN, State.TORN_DOWN)
LIVE = tuple(state for state in State if state not in ENDING)
TRANSIENT = Refusal(Code.IO_FAILURE, "no")


def test_the_table_is_exactly_this_one():
    found = {(s.value, t.trigger): t.target.value for t in TRANSITIONS for s in t.sources}
    assert found == LEGAL


@pytest.mark.parametrize(("state", "trigger"), list(itertools.product(State, EVENT_OF)))
def test_every_trigger_from_every_state(state, trigger):
    target = LEGAL.get((state.value, trigger))
    record = in_state(state)
    if target is None:
        with pytest.raises(IllegalTransition):
            decide(record, EVENT_OF[trigger], BORN)
    else:
        assert decide(record, EVENT_OF[trigger], BORN).record.state.value == target


def test_an_illegal_event_leaves_nothing_behind():
    record = in_state(State.REQUESTED)
    with pytest.raises(IllegalTransition):
        decide(record, Lost("x"), BORN)
    assert decide(record, Done(Step.ALLOCATE, 1.0, {}), BORN).record.state is State.ALLOCATED


# --- resume: what a restarted daemon does next


@pytest.mark.parametrize(
    ("state", "effects"),
    [
        (State.REQUESTED, (Do(Step.ALLOCATE),)),
        (State.ALLOCATED, (Do(Step.WIRE),)),
        (State.WIRED, (Do(Step.ADVERTISE),)),
        (State.ADVERTISED, ()),
        (State.TEARING_DOWN, (Do(Step.TEAR_DOWN),)),
        (State.TORN_DOWN, (Close(),)),
    ],
)
def test_resume_goes_on_from_where_it_is(state, effects):
    record = in_state(state)
    decision = decide(record, Resume(), BORN)
    assert decision.effects == effects
    assert decision.record is record


def test_an_ipam_only_attachment_has_nothing_left_to_do():
    record = in_state(State.ALLOCATED, goal=State.ALLOCATED)
    assert next_step(record) is None
    assert decide(record, Resume(), BORN).effects == ()


# --- done


def test_allocation_is_recorded_and_wiring_follows():
    decision = decide(requested(), Done(Step.ALLOCATE, 1.25, {"cni_version": "1.0.0"}), BORN + 1)
    assert decision.effects == (Do(Step.WIRE),)
    assert decision.record.cni_version == "1.0.0"
    assert decision.record.since == BORN + 1
    visit = decision.record.history[-1]
    assert (visit.state, visit.at, visit.took_ms, visit.cause) == (State.ALLOCATED, BORN + 1, 1.25, "allocate")
    assert not decision.record.answered


def test_add_is_answered_when_wired_and_advertising_follows():
    decision = decide(in_state(State.ALLOCATED), Done(Step.WIRE, 1.0, {}), BORN)
    assert decision.effects == (Answer(), Do(Step.ADVERTISE))
    assert decision.record.answered


def test_an_ipam_only_add_is_answered_when_allocated():
    decision = decide(requested(goal=State.ALLOCATED), Done(Step.ALLOCATE, 1.0, {}), BORN)
    assert decision.effects == (Answer(),)
    assert decision.record.answered


def test_advertised_is_the_end_of_the_way():
    assert decide(in_state(State.WIRED), Done(Step.ADVERTISE, 1.0, {}), BORN).effects == ()


def test_torn_down_is_closed():
    decision = decide(in_state(State.TEARING_DOWN), Done(Step.TEAR_DOWN, 1.0, {"closed_mono": 5.0}), BORN)
    assert decision.effects == (Close(),)
    assert decision.record.closed_mono == 5.0


# --- delete


@pytest.mark.parametrize("state", LIVE)
def test_delete_is_recorded_and_answered_before_anything_is_undone(state):
    decision = decide(in_state(state), Delete("DEL"), BORN)
    assert decision.record.state is State.TEARING_DOWN
    assert decision.effects == (Answer(), Do(Step.TEAR_DOWN))
    assert decision.record.history[-1].cause == "DEL"


@pytest.mark.parametrize(("state", "effect"), [(State.TEARING_DOWN, Do(Step.TEAR_DOWN)), (State.TORN_DOWN, Close())])
def test_a_second_delete_is_answered_and_changes_nothing(state, effect):
    record = in_state(state)
    decision = decide(record, Delete("again"), BORN)
    assert decision.record is record
    assert decision.effects == (Answer(), effect)


# --- lost


@pytest.mark.parametrize("state", [State.WIRED, State.ADVERTISED])
def test_a_lost_link_is_wired_again_with_the_same_addresses(state):
    record = in_state(state)
    decision = decide(record, Lost("somebody deleted the link"), BORN)
    assert decision.effects == (Do(Step.WIRE),)
    assert (decision.record.state, decision.record.addresses) == (State.ALLOCATED, record.addresses)
    assert decision.record.answered


# --- hidden

UNAPPROVED = Refusal(132, "10.244.1.0/24 is not approved", "approve it")


def test_what_other_nodes_cannot_reach_any_more_is_advertised_again():
    decision = decide(in_state(State.ADVERTISED), Hidden(UNAPPROVED), BORN)
    assert decision.effects == (Do(Step.ADVERTISE),)
    assert decision.record.state is State.WIRED
    assert decision.record.answered
    assert decision.record.history[-1].cause == str(UNAPPROVED)


@pytest.mark.parametrize("state", [state for state in State if state is not State.ADVERTISED])
def test_the_mesh_comes_too_late_for_what_is_not_advertised(state):
    record = in_state(state)
    decision = decide(record, Hidden(UNAPPROVED), BORN)
    assert (decision.record is record, decision.effects) == (True, ())


# --- failed


@pytest.mark.parametrize("state", [State.REQUESTED, State.ALLOCATED, State.WIRED, State.TEARING_DOWN])
def test_a_failure_stays_in_its_state_and_says_when_it_is_tried_again(state):
    record = in_state(state)
    step = NEXT_STEP[state]
    decision = decide(record, Failed(step, 1.0, TRANSIENT), BORN)
    (retry,) = decision.effects
    assert isinstance(retry, RetryAfter)
    assert decision.record.state is state
    problem = decision.record.problem
    assert (problem.step, problem.code, problem.msg, problem.attempt) == (step.value, 5, "no", 1)
    assert problem.next_try == pytest.approx(BORN + retry.seconds)


def test_success_forgets_the_problem():
    record = decide(requested(), Failed(Step.ALLOCATE, 1.0, TRANSIENT), BORN).record
    assert decide(record, Done(Step.ALLOCATE, 1.0, {}), BORN).record.problem is None


def failures(record, step, count, refusal=TRANSIENT):
    decision = None
    for _ in range(count):
        decision = decide(record, Failed(step, 1.0, refusal), BORN)
        record = decision.record
    return decision


@pytest.mark.parametrize("step", [Step.ALLOCATE, Step.WIRE])
def test_an_add_is_tried_again_three_times_then_refused_and_undone(step):
    record = in_state(State.REQUESTED if step is Step.ALLOCATE else State.ALLOCATED)
    assert isinstance(failures(record, step, 3).effects[0], RetryAfter)
    decision = failures(record, step, 4)
    assert decision.effects == (Answer(TRANSIENT), Do(Step.TEAR_DOWN))
    assert decision.record.state is State.TEARING_DOWN
    assert decision.record.history[-1].cause == f"{step.value} failed: no"


@pytest.mark.parametrize("code", sorted(PERMANENT))
def test_what_trying_again_cannot_change_is_refused_at_once(code):
    refusal = Refusal(code, "never")
    assert failures(requested(), Step.ALLOCATE, 1, refusal).effects[0] == Answer(refusal)


@pytest.mark.parametrize("code", [Code.IO_FAILURE, *sorted(PERMANENT)])
def test_what_a_running_pod_was_promised_is_tried_for_ever(code):
    record = decide(in_state(State.ADVERTISED), Lost("x"), BORN).record
    decision = failures(record, Step.WIRE, 50, Refusal(code, "no"))
    assert isinstance(decision.effects[0], RetryAfter)
    assert decision.record.problem.attempt == 50


@pytest.mark.parametrize(("state", "step"), [(State.WIRED, Step.ADVERTISE), (State.TEARING_DOWN, Step.TEAR_DOWN)])
def test_advertising_and_teardown_are_never_given_up(state, step):
    assert isinstance(failures(in_state(state), step, 100).effects[0], RetryAfter)


def test_attempts_are_counted_per_step():
    record = failures(requested(), Step.ALLOCATE, 3).record
    record = decide(record, Done(Step.ALLOCATE, 1.0, {}), BORN).record
    assert failures(record, Step.WIRE, 1).record.problem.attempt == 1


# --- backoff


def test_delays_grow_by_their_factor_up_to_their_cap():
    delays = [Backoff(first=1, factor=2, cap=10, limit=None).delay(attempt, "key") for attempt in range(1, 8)]
    for delay, plain in zip(delays, [1, 2, 4, 8, 10, 10, 10], strict=True):
        assert 0.8 * plain <= delay <= 1.2 * plain


def test_jitter_is_drawn_from_the_key_so_that_decisions_stay_pure():
    backoff = BACKOFF[Step.WIRE]
    assert backoff.delay(2, "a") == backoff.delay(2, "a")
    assert len({backoff.delay(2, f"pod-{number}") for number in range(100)}) > 90


def test_a_very_high_attempt_neither_overflows_nor_exceeds_the_cap():
    for backoff in BACKOFF.values():
        assert backoff.delay(10**6, "key") <= 1.2 * backoff.cap


# --- any sequence of events, with a kill and a restart after any of them

EVENTS = st.lists(st.sampled_from(["done", "failed", "hopeless", "delete", "lost", "hidden", "kill"]), max_size=40)


def event_for(record, what):
    step = next_step(record)
    if what == "delete":
        return Delete("DEL")
    if what == "lost":
        return Lost("gone") if record.state in (State.WIRED, State.ADVERTISED) else None
    if what == "hidden":
        return Hidden(UNAPPROVED)
    if step is None:
        return None
    if what == "done":
        return Done(step, 1.0, {})
    return Failed(step, 1.0, TRANSIENT if what == "failed" else Refusal(Code.UNKNOWN_CONTAINER, "never"))


@given(EVENTS, st.sampled_from([State.ALLOCATED, State.ADVERTISED]))
def test_no_sequence_of_events_leaves_the_table_or_breaks_a_promise(sequence, goal):
    record = requested(goal=goal)
    for what in sequence:
        before = record
        if what == "kill":
            record = decode(encode(record))
            assert record == before
        elif event := event_for(record, what):
            record = decide(record, event, BORN).record
        assert record.answered or not before.answered
        assert record.answered or record.state not in (State.WIRED, State.ADVERTISED)
        assert before.state not in ENDING or record.state in ENDING
        assert (record.problem is None) or record.problem.step == next_step(record).value
    while (step := next_step(record)) is not None:  # nothing is ever stuck for good
        record = decide(record, Done(step, 1.0, {}), BORN).record
    assert record.state in (goal, State.TORN_DOWN)
