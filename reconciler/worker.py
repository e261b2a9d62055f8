"""Drives one attachment. Everything that happens to it happens here, one thing after another.

A worker is made when something happens to an attachment and ends when nothing is left to do for it. Its inbox holds
intents and events in the order they came; while it waits for the next try of a failed step it listens to the inbox
too, so a delete interrupts a retry at once.

The order within `_feed` is the promise of the whole design: decide, write the record, and only then act. When the
disk is full, a teardown goes on without its file (its intent stays on disk until it is done, so nothing is lost),
and an ADD is refused and undone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from cni.spec import Code, Refusal, Verb
from reconciler.desk import Desk
from reconciler.request import Request, asked_version
from reconciler.steps import Context, context_of, context_to_delete, remembered_context
from statemachine.attachment import Attachment, Namespace, State
from statemachine.intent import Intent
from statemachine.machine import (
    Answer,
    Close,
    Delete,
    Do,
    Event,
    Failed,
    Lost,
    Resume,
    RetryAfter,
    decide,
    next_step,
)

ENDING = (State.TEARING_DOWN, State.TORN_DOWN)
LAST_WORD = 1.0  # seconds before its deadline that a plugin must be told


@dataclass(frozen=True, slots=True)
class Call:
    intent: Intent
    version: str  # the answer's


class Worker:
    def __init__(self, desk: Desk, key: str) -> None:
        self._desk = desk
        self.key = key
        self.inbox: deque[Intent | Event] = deque()
        self._arrived = asyncio.Event()
        self._retry_at: float | None = None  # of the event loop's clock
        self._waiting: list[Call] = []  # who is to be told when the machine answers
        self._serving: Call | None = None  # in hand, and neither waiting nor told
        self._context: Context | None = None
        self._unsaved = False
        self._hurried = False
        self.resting = False  # nothing to do before the next try

    def post(self, what: Intent | Event) -> None:
        self.inbox.append(what)
        self._arrived.set()

    def hurry(self) -> None:
        """The daemon stops: what is in progress is finished, nothing is waited for."""
        self.inbox.clear()
        self._hurried = True
        self._arrived.set()

    @property
    def record(self) -> Attachment | None:
        return self._desk.records.get(self.key)

    async def run(self) -> None:
        while (job := await self._next()) is not None:
            if isinstance(job, Intent):
                await self._serve(job)
            else:
                await self._feed(job)

    async def fault(self, error: BaseException) -> None:
        """A fault of the step in progress is a failure of that step: visible in the record, tried again, bounded."""
        refusal = _fault(error)
        record = self.record
        step = next_step(record) if record else None
        if self._serving is not None:
            self._tell(self._serving, refusal)
        if step is None:
            self._answer(refusal)
        else:
            await self._feed(Failed(step, 0.0, refusal))

    def abandon(self, error: BaseException) -> None:
        """Nobody is left waiting for a worker that cannot go on."""
        calls = [*self._waiting, *[Call(each, asked_version(each)) for each in self.inbox if isinstance(each, Intent)]]
        for call in (self._serving, *calls):
            if call is not None:
                self._desk.refuse(call.intent, call.version, _fault(error))

    async def _next(self) -> Intent | Event | None:
        while not self.inbox:
            if self._retry_at is None or self._hurried:
                return None
            self._arrived.clear()
            patience = self._retry_at - asyncio.get_running_loop().time()
            self.resting = True
            try:
                await asyncio.wait_for(self._arrived.wait(), max(0.0, patience))
            except TimeoutError:
                self._retry_at = None
                return self._when_patience_ends()
            finally:
                self.resting = False
        return self.inbox.popleft()

    def _when_patience_ends(self) -> Event:
        """Try again; unless the ADD that wants it has run out of time, and nobody else does."""
        record = self.record
        expired = [call for call in self._waiting if self._desk.expired(call.intent)]
        self._waiting = [call for call in self._waiting if call not in expired]
        for call in expired:
            self._desk.discard(call.intent)
        if record and not record.answered and record.state not in ENDING and not self._waiting:
            return Delete("the ADD that made it ran out of time")
        return Resume()

    # --- intents

    async def _serve(self, intent: Intent) -> None:
        if self._desk.expired(intent):
            self._desk.discard(intent)
            return
        self._serving = Call(intent, asked_version(intent))
        request = self._desk.understand(intent)
        if isinstance(request, Refusal):
            await self._misunderstood(intent, request)
            return
        self._serving = _call(request)
        if intent.verb is Verb.ADD:
            await self._add(request)
        elif intent.verb is Verb.DEL:
            await self._delete(request)
        else:
            await self._check(request)

    async def _misunderstood(self, intent: Intent, refusal: Refusal) -> None:
        """A DEL is done nevertheless where its configuration is merely invalid, for the runtime owes it even after an
        ADD that was refused for the same reason: by the record if there is one, else by name."""
        call = Call(intent, asked_version(intent))
        if intent.verb is not Verb.DEL or (self.record is None and refusal.code != Code.INVALID_CONFIGURATION):
            self._tell(call, refusal)
        elif self.record is None:
            await self._desk.delete_by_name(self.key)
            self._tell(call, None)
        else:
            self._wait(call)
            await self._feed(Delete(f"DEL, with a configuration that cannot be used: {refusal}"))

    async def _add(self, request: Request) -> None:
        netns = self._desk.namespace_of(request)
        if isinstance(netns, Refusal):
            self._tell(_call(request), netns)
            return
        record = self.record
        if record is not None and (record.state in ENDING or not _same_place(record, netns)):
            if record.state not in ENDING and self._desk.namespace_alive(record):
                self._tell(_call(request), _exists(record))
                return
            await self._feed(Delete("the container is added anew"))
            if self.record is not None:
                self._tell(_call(request), self._still_going())
                return
        self._context = context_of(request)
        self._wait(_call(request))
        record = self.record
        if record is None:
            await self._begin(request, netns)
        elif record.answered:
            await self._add_again(record)
        else:
            await self._feed(Resume())

    async def _begin(self, request: Request, netns: Namespace | None) -> None:
        """Until there is an address to remember, the intent is record enough; unless somebody else keeps the addresses,
        who must be told if nothing comes of it."""
        record = self._desk.new_record(request, netns)
        if request.conf.delegate:
            refusal = self._keep(record, told=False)
            if refusal is not None:
                self._answer(refusal)
                self._desk.forget(self.key)
                return
        self._desk.records[self.key] = record
        await self._feed(Resume())

    async def _add_again(self, record: Attachment) -> None:
        """The same answer as before, and true: what the record says is put back first where it is missing."""
        if record.state is State.ALLOCATED and record.goal is not State.ALLOCATED:
            await self._feed(Resume())  # it lost its link, and is about to get it back
        else:
            differences = await self._desk.steps.inspect(record)
            if not differences:
                self._answer(None)
                return
            await self._feed(Lost("; ".join(differences)))
        current = self.record
        if current is not None and current.problem is not None:
            self._answer(_problem_of(current))

    async def _delete(self, request: Request) -> None:
        record = self.record
        if record is None:
            self._tell(_call(request), await self._desk.delete_unknown(request))
            return
        self._context = context_to_delete(record, request)
        self._wait(_call(request))
        await self._feed(Delete("DEL"))

    async def _check(self, request: Request) -> None:
        record = self.record
        if record is None:
            refusal: Refusal | None = Refusal(
                Code.ATTACHMENT_DIFFERS, f"{self.key} is not attached", "no record of it; the pod must be recreated"
            )
        elif not record.answered or record.state in ENDING:
            refusal = self._still_going()
        else:
            refusal = await self._desk.check(request, record)
        self._tell(_call(request), refusal)

    def _still_going(self) -> Refusal:
        record = self.record
        why = record.problem.msg if record and record.problem else "it takes a moment"
        state = record.state.value if record else "gone"
        return Refusal(Code.TRY_AGAIN_LATER, f"{self.key} is {state}", why)

    # --- the machine

    async def _feed(self, event: Event | None) -> None:
        self._retry_at = None
        while event is not None:
            record = self.record
            if record is None:
                return  # closed meanwhile
            decision = decide(record, event, self._desk.clock.wall())
            if decision.record is not record:
                refusal = self._keep(decision.record, told=record.answered)
                if refusal is not None:
                    self._answer(refusal)
                    event = Delete(refusal.msg)
                    continue
            event = None
            for effect in decision.effects:
                match effect:
                    case Answer(refusal):
                        self._answer(refusal)
                    case RetryAfter(seconds):
                        self._desk.note_retry(decision.record)
                        if self._too_late(decision.record, seconds):
                            self._answer(_problem_of(decision.record))
                            event = Delete("no time is left to try again")
                        else:
                            self._retry_at = asyncio.get_running_loop().time() + seconds
                    case Close():
                        self._close(decision.record)
                    case Do(step):
                        event = await self._desk.steps.perform(
                            step, decision.record, self._context_for(decision.record)
                        )

    def _too_late(self, record: Attachment, seconds: float) -> bool:
        """Whoever waits is better told the reason now than nothing at the deadline."""
        if record.answered or record.state in ENDING or not self._waiting:
            return False
        return all(self._desk.expired(call.intent, within=seconds + LAST_WORD) for call in self._waiting)

    def _keep(self, record: Attachment, told: bool) -> Refusal | None:
        """Into memory and onto disk. A refusal: it could not be written, and its ADD was not answered yet."""
        no_space = self._desk.keep(record)
        self._unsaved = no_space is not None
        if no_space is None:
            return None
        if told or record.state in ENDING:
            return None
        return Refusal(Code.IO_FAILURE, f"the record could not be written: {no_space.reason}", no_space.path)

    def _close(self, record: Attachment) -> None:
        self._desk.close(record)
        self._unsaved = False
        self._answer(None)
        self._context = None

    def _context_for(self, record: Attachment) -> Context:
        if self._context is None:
            self._context = remembered_context(record)
        return self._context

    # --- answers

    def _wait(self, call: Call) -> None:
        self._serving = None
        self._waiting.append(call)

    def _answer(self, refusal: Refusal | None) -> None:
        """Held back while the record of a teardown is not on disk: the intent is then all that remembers it."""
        record = self.record
        if refusal is None and self._unsaved and record is not None and record.state in ENDING:
            return
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            self._tell(call, refusal)

    def _tell(self, call: Call, refusal: Refusal | None) -> None:
        intent, version = call.intent, call.version
        self._serving = None
        record = self.record
        if intent.verb is Verb.ADD and refusal is None and (record is None or record.state in ENDING):
            refusal = Refusal(Code.TRY_AGAIN_LATER, f"{self.key} was deleted while it was being added", "add it anew")
        if refusal is not None:
            self._desk.refuse(intent, version, refusal)
        else:
            self._desk.succeed(intent, version, record if intent.verb is Verb.ADD else None)


def _call(request: Request) -> Call:
    return Call(request.intent, request.conf.cni_version)


def _fault(error: BaseException) -> Refusal:
    return Refusal(Code.INTERNAL_FAULT, "fault in the daemon", f"{type(error).__name__}: {error}")


def _problem_of(record: Attachment) -> Refusal | None:
    problem = record.problem
    return Refusal(problem.code, problem.msg, problem.details) if problem else None


def _exists(record: Attachment) -> Refusal:
    where = record.netns.path if record.netns else "another namespace"
    return Refusal(
        Code.ATTACHMENT_EXISTS,
        f"CNI_NETNS: {record.key} is attached already, in {where}",
        "delete that attachment first",
    )


def _same_place(record: Attachment, netns: Namespace | None) -> bool:
    if record.netns is None or netns is None:
        return record.netns is netns
    return (record.netns.dev, record.netns.ino) == (netns.dev, netns.ino)
