"""The states of an attachment, the one table of legal transitions, and the decision what to do next.

`decide` is the whole of HeadCNI's behaviour for one attachment, without a clock, a file or a socket in it: given
the record and what just happened, it answers with the record as it must now be *written*, and then the effects that
may be carried out, in order. Whoever calls it owes exactly that order; a kill between any two steps is found again
by reading the record.

An error is not a state. A step that failed leaves the attachment where it was, with the error, the attempt and the
time of the next try in the record, so "stuck" is always visible and always says why.

The `transitions` machine holds the table and refuses what is not in it. One model is bound to it once and lent
to each record in turn: binding costs ten times a trigger. Its callbacks stay empty on purpose; effects are derived
from the state reached, so that they can be tested as values.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from transitions import Machine, MachineError

from cni.spec import Code, Refusal
from statemachine.attachment import Attachment, Problem, State, Visit, bounded


class Step(StrEnum):
    """The work that leads out of a state."""

    ALLOCATE = "allocate"
    WIRE = "wire"
    ADVERTISE = "advertise"
    TEAR_DOWN = "tear down"


@dataclass(frozen=True, slots=True)
class Transition:
    trigger: str
    sources: tuple[State, ...]
    target: State
    meaning: str


TRANSITIONS = (
    Transition("allocated", (State.REQUESTED,), State.ALLOCATED, "an address of each family is reserved and recorded"),
    Transition("wired", (State.ALLOCATED,), State.WIRED, "isolated, then linked; ADD is answered"),
    Transition("advertised", (State.WIRED,), State.ADVERTISED, "other nodes have a way to the address"),
    Transition(
        "hidden",
        (State.ADVERTISED,),
        State.WIRED,
        "no way of other nodes leads to the address any more: advertise again",
    ),
    Transition(
        "lost",
        (State.WIRED, State.ADVERTISED),
        State.ALLOCATED,
        "the link vanished under a living pod: wire again",
    ),
    Transition(
        "delete",
        (State.REQUESTED, State.ALLOCATED, State.WIRED, State.ADVERTISED),
        State.TEARING_DOWN,
        "recorded; DEL is answered",
    ),
    Transition(
        "gone",
        (State.TEARING_DOWN,),
        State.TORN_DOWN,
        "withdrawn, unwired, unisolated, released; into the history",
    ),
)

NEXT_STEP: Mapping[State, Step | None] = {
    State.REQUESTED: Step.ALLOCATE,
    State.ALLOCATED: Step.WIRE,
    State.WIRED: Step.ADVERTISE,
    State.ADVERTISED: None,
    State.TEARING_DOWN: Step.TEAR_DOWN,
    State.TORN_DOWN: None,
}

_TRIGGER_OF_STEP = {
    Step.ALLOCATE: "allocated",
    Step.WIRE: "wired",
    Step.ADVERTISE: "advertised",
    Step.TEAR_DOWN: "gone",
}


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays in seconds; `limit` is how many times a step is tried again before the ADD that waits is refused."""

    first: float
    factor: float
    cap: float
    limit: int | None

    def delay(self, attempt: int, key: str) -> float:
        """After the attempt-th failure. The jitter is drawn from the key, so that decisions stay pure."""
        plain = min(self.cap, self.first * self.factor ** min(attempt - 1, 32))
        spread = zlib.crc32(f"{key}#{attempt}".encode()) / 0xFFFFFFFF
        return plain * (0.8 + 0.4 * spread)


BACKOFF: Mapping[Step, Backoff] = {
    Step.ALLOCATE: Backoff(first=0.1, factor=2, cap=2, limit=3),
    Step.WIRE: Backoff(first=0.05, factor=3, cap=30, limit=3),
    Step.ADVERTISE: Backoff(first=0.5, factor=2, cap=60, limit=None),
    Step.TEAR_DOWN: Backoff(first=0.1, factor=2, cap=60, limit=None),
}

# Trying again cannot change these: somebody must change the request first.
PERMANENT = frozenset(
    {
        Code.INCOMPATIBLE_VERSION,
        Code.UNSUPPORTED_FIELD,
        Code.UNKNOWN_CONTAINER,
        Code.INVALID_ENVIRONMENT,
        Code.DECODE_FAILURE,
        Code.INVALID_CONFIGURATION,
        Code.INTERFACE_TAKEN,
        Code.ATTACHMENT_EXISTS,
    }
)


# --- events: what happened


@dataclass(frozen=True, slots=True)
class Resume:
    """The record is new, was read after a restart, or its time to try again has come."""


@dataclass(frozen=True, slots=True)
class Done:
    """The step succeeded. `facts` are fields of the record it established."""

    step: Step
    took_ms: float
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    step: Step
    took_ms: float
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Delete:
    cause: str


@dataclass(frozen=True, slots=True)
class Lost:
    cause: str


@dataclass(frozen=True, slots=True)
class Hidden:
    """Other nodes have no way to the address any more; the pod itself is well."""

    refusal: Refusal


Event = Resume | Done | Failed | Delete | Lost | Hidden


# --- effects: what may be done now that the record is written


@dataclass(frozen=True, slots=True)
class Do:
    step: Step


@dataclass(frozen=True, slots=True)
class Answer:
    """Whoever waits for what was just recorded is told: with the refusal, or with success."""

    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class RetryAfter:
    seconds: float


@dataclass(frozen=True, slots=True)
class Close:
    """Move the record into the history."""


Effect = Do | Answer | RetryAfter | Close


@dataclass(frozen=True, slots=True)
class Decision:
    record: Attachment
    effects: tuple[Effect, ...]


class IllegalTransition(Exception):
    """A fault: the table does not know this move."""


class _Model:
    state: str
    trigger: Any  # bound by the machine


class _Table:
    def __init__(self) -> None:
        self._model = _Model()
        self._machine = Machine(
            model=self._model,
            states=[state.value for state in State],
            transitions=[
                {"trigger": t.trigger, "source": [s.value for s in t.sources], "dest": t.target.value}
                for t in TRANSITIONS
            ],
            initial=State.REQUESTED.value,
            auto_transitions=False,
            send_event=False,
        )

    def target(self, state: State, trigger: str) -> State:
        self._model.state = state.value
        try:
            self._model.trigger(trigger)
        except MachineError as error:
            raise IllegalTransition(str(error)) from None
        return State(self._model.state)


_TABLE = _Table()


def decide(record: Attachment, event: Event, wall: float) -> Decision:
    """`wall` is the wall clock's time, for the record's readers; nothing is decided by it."""
    match event:
        case Resume():
            return _resume(record)
        case Done(step, took_ms, facts):
            return _done(record, step, took_ms, facts, wall)
        case Failed():
            return _failed(record, event, wall)
        case Delete(cause):
            if record.state in (State.TEARING_DOWN, State.TORN_DOWN):
                return Decision(record, (Answer(), *_resume(record).effects))
            moved = _moved(record, "delete", cause, 0.0, wall)
            return Decision(moved, (Answer(), Do(Step.TEAR_DOWN)))
        case Lost(cause):
            again = replace(record, generation=record.generation + 1)
            return Decision(_moved(again, "lost", cause, 0.0, wall), (Do(Step.WIRE),))
        case Hidden(refusal):
            if record.state is not State.ADVERTISED:
                return Decision(record, ())
            return Decision(_moved(record, "hidden", str(refusal), 0.0, wall), (Do(Step.ADVERTISE),))


def next_step(record: Attachment) -> Step | None:
    """An attachment made by an IPAM-only call has reached its goal once it has an address."""
    if record.state is State.ALLOCATED and record.goal is State.ALLOCATED:
        return None
    return NEXT_STEP[record.state]


def _resume(record: Attachment) -> Decision:
    if record.state is State.TORN_DOWN:
        return Decision(record, (Close(),))
    step = next_step(record)
    return Decision(record, (Do(step),) if step else ())


def _done(record: Attachment, step: Step, took_ms: float, facts: Mapping[str, Any], wall: float) -> Decision:
    moved = _moved(replace(record, **facts), _TRIGGER_OF_STEP[step], step.value, took_ms, wall)
    if moved.state is State.TORN_DOWN:
        return Decision(moved, (Close(),))
    following = next_step(moved)
    onward: tuple[Effect, ...] = (Do(following),) if following else ()
    if moved.state is State.WIRED or moved.state is moved.goal is State.ALLOCATED:
        return Decision(replace(moved, answered=True), (Answer(), *onward))
    return Decision(moved, onward)


def _failed(record: Attachment, event: Failed, wall: float) -> Decision:
    attempt = record.problem.attempt + 1 if record.problem and record.problem.step == event.step.value else 1
    backoff = BACKOFF[event.step]
    if _hopeless(record, event, attempt):
        cause = f"{event.step.value} failed: {event.refusal}"
        moved = _moved(record, "delete", cause, event.took_ms, wall)
        return Decision(moved, (Answer(event.refusal), Do(Step.TEAR_DOWN)))
    delay = backoff.delay(attempt, record.key)
    problem = Problem(
        step=event.step.value,
        code=event.refusal.code,
        msg=event.refusal.msg,
        details=event.refusal.details,
        attempt=attempt,
        at=wall,
        next_try=wall + delay,
    )
    return Decision(replace(record, problem=problem), (RetryAfter(delay),))


def _hopeless(record: Attachment, event: Failed, attempt: int) -> bool:
    """Only an ADD that still waits may be given up; what a running pod was promised is tried for ever."""
    limit = BACKOFF[event.step].limit
    if record.answered or limit is None:
        return False
    return event.refusal.code in PERMANENT or attempt > limit


def _moved(record: Attachment, trigger: str, cause: str, took_ms: float, wall: float) -> Attachment:
    target = _TABLE.target(record.state, trigger)
    visit = Visit(state=target, at=wall, took_ms=round(took_ms, 3), cause=cause)
    return replace(record, state=target, since=wall, problem=None, history=bounded((*record.history, visit)))
