"""Asking other nodes' daemons, and answering them: one datagram each way.

A question goes from an address of this node to an address of another. That an answer comes proves delivery between
those two addresses, both ways; what is in it is the other's report of us. An answer counts if its nonce is one that
waits, and if it comes from the address that was asked to the one that asked. Everything else is dropped and counted.

Who may have an answer is not known here: `answer` says so, and only so often in a second that nobody can keep this
node busy by asking. Nothing is remembered of those who ask.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from cni.spec import Code, Refusal
from reconciler.mesh.endpoint import Endpoint
from reconciler.mesh.model import Report
from reconciler.mesh.ports import Echo, Unanswered
from reconciler.mesh.ration import Ration
from reconciler.mesh.wire import MAX_PREFIXES, NONCE_BYTES, Answer, Hint, Question, pack, unpack
from reconciler.settings import IpAddress, Network

DEFAULT_PORT = 9472
ANSWERS_A_SECOND = 200
HINTS_A_SECOND = 20

GiveAnswer = Callable[[IpAddress, tuple[Network, ...]], Answer | None]


@dataclass(frozen=True, slots=True)
class _Waiting:
    source: IpAddress
    target: IpAddress
    asked: tuple[Network, ...]
    sent_at: float
    outcome: asyncio.Future[Echo | Unanswered]


class Probe:
    """`answer`: what to tell the node at this address of these prefixes of its own; None: say nothing to it.

    `counts` has what was done and what was dropped, by reason.
    """

    def __init__(
        self,
        answer: GiveAnswer,
        heard_hint: Callable[[IpAddress], None],
        port: int = DEFAULT_PORT,
        clock: Callable[[], float] = time.monotonic,
        new_nonce: Callable[[], bytes] = lambda: os.urandom(NONCE_BYTES),
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._answer = answer
        self._heard_hint = heard_hint
        self._port = port
        self._clock = clock
        self._new_nonce = new_nonce
        self._endpoints: dict[IpAddress, Endpoint] = {}
        self._waiting: dict[bytes, _Waiting] = {}
        self._answers = Ration(ANSWERS_A_SECOND)
        self._hints = Ration(HINTS_A_SECOND)

    def set_addresses(self, addresses: Iterable[IpAddress]) -> tuple[Refusal, ...]:
        """Listens at these and no others, also at those that do not exist yet; what could not be is tried again
        with the next call. To be called in the event loop, and in the network namespace."""
        wanted = set(addresses)
        for address in self._endpoints.keys() - wanted:
            self._endpoints.pop(address).close()
        problems = []
        for address in sorted(wanted - self._endpoints.keys(), key=str):
            try:
                self._endpoints[address] = Endpoint(address, self._port, self._receive)
            except OSError as error:
                problems.append(_cannot_listen(address, self._port, error))
        return tuple(problems)

    def close(self) -> None:
        self.set_addresses(())
        for waiting in self._waiting.values():
            if not waiting.outcome.done():
                waiting.outcome.set_result(Unanswered("the probe was closed"))

    async def ask(
        self, source: IpAddress, target: IpAddress, prefixes: Sequence[Network], within: float
    ) -> Echo | Unanswered:
        """Of more prefixes than a question holds, the first ones are asked for."""
        endpoint = self._endpoints.get(source)
        if endpoint is None:
            return Unanswered(f"not listening at {source}")
        nonce, asked = self._new_nonce(), tuple(prefixes[:MAX_PREFIXES])
        outcome: asyncio.Future[Echo | Unanswered] = asyncio.get_running_loop().create_future()
        self._waiting[nonce] = _Waiting(source, target, asked, self._clock(), outcome)
        try:
            why = endpoint.send(pack(nonce, Question(asked)), target, self._port)
            if why:
                return Unanswered(f"not sent: {why}")
            async with asyncio.timeout(within):
                return await outcome
        except TimeoutError:
            return Unanswered(f"no answer within {within:g} s")
        finally:
            del self._waiting[nonce]

    def hint(self, source: IpAddress, target: IpAddress) -> None:
        """Tells the daemon there that a look at this node's views is worth it. It may be lost."""
        endpoint = self._endpoints.get(source)
        if endpoint is not None and endpoint.send(pack(self._new_nonce(), Hint()), target, self._port):
            self.counts["not sent"] += 1

    def _receive(self, endpoint: Endpoint, datagram: bytes, host: str, port: int) -> None:
        message = unpack(datagram)
        if message is None:
            self.counts["malformed"] += 1
            return
        nonce, body = message
        if isinstance(body, Question):
            self._reply(endpoint, nonce, body, host, port)
        elif isinstance(body, Answer):
            self._settle(endpoint.address, nonce, body, host, port)
        elif self._hints.take(self._clock()):
            self._heard_hint(ip_address(host))
        else:
            self.counts["too many hints"] += 1

    def _reply(self, endpoint: Endpoint, nonce: bytes, question: Question, host: str, port: int) -> None:
        asker = ip_address(host)
        answer = self._answer(asker, question.prefixes)
        if answer is None:
            self.counts["from strangers"] += 1  # who has no claim to an answer uses up none
        elif not self._answers.take(self._clock()):
            self.counts["too many questions"] += 1
        elif endpoint.send(pack(nonce, answer), asker, port):
            self.counts["not sent"] += 1
        else:
            self.counts["answered"] += 1

    def _settle(self, address: IpAddress, nonce: bytes, answer: Answer, host: str, port: int) -> None:
        waiting = self._waiting.get(nonce)
        if (
            waiting is None
            or waiting.outcome.done()
            or (waiting.source, waiting.target, self._port) != (address, ip_address(host), port)
            or len(answer.sights) != len(waiting.asked)
        ):
            self.counts["unasked"] += 1
            return
        now = self._clock()
        sights = {} if answer.blind else dict(zip(waiting.asked, answer.sights, strict=True))
        report = Report(now, answer.name, sights, answer.announces, answer.accepts_routes)
        waiting.outcome.set_result(Echo(report, (now - waiting.sent_at) * 1000))


def _cannot_listen(address: IpAddress, port: int, error: OSError) -> Refusal:
    return Refusal(
        Code.IO_FAILURE,
        f"mesh.probePort: cannot listen on {address} port {port}: {error.strerror}",
        f"`ss -lunp sport = :{port}` shows who has it; stop that, or give all nodes another mesh.probePort",
    )
