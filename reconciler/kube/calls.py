"""The blocking half of a client: one call, or the beginning of one stream, with everything that belongs to it.

What was read from files is read again when they change, and an exec plugin is asked again after a 401. A GET whose
connection broke is sent once more, because kept connections end when they please; a write is not, because nobody knows
whether it was done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from urllib3.exceptions import HTTPError, ProtocolError

from cni.spec import Refusal
from reconciler.kube import answers, diagnose, transport
from reconciler.kube.access import Access
from reconciler.kube.evidence import gather
from reconciler.kube.names import Names
from reconciler.kube.transport import Request, Stream, TooLarge

RESOLVE = 2.0  # seconds
T = TypeVar("T")


class Calls:
    def __init__(
        self, access: Access, reopen: Callable[[], Access | Refusal], names: Names, wall: Callable[[], float]
    ) -> None:
        self.access = access
        self._reopen = reopen
        self._names = names
        self._wall = wall
        self._opening = threading.Lock()

    def call(self, request: Request, within: float) -> Any | Refusal:
        """Its JSON."""
        return self._authorized(lambda access, token: self._answered(access, token, request, within))

    def stream(self, request: Request, silence: float) -> Stream | Refusal:
        return self._authorized(lambda access, token: self._begun(access, token, request, silence))

    def _answered(self, access: Access, token: str | None, request: Request, within: float) -> Any | Refusal:
        answer = self._dialled(access, lambda: transport.send(access, token, request, within), request)
        if isinstance(answer, Refusal):
            return answer
        return answers.read(access, request, answer, token, self._wall())

    def _begun(self, access: Access, token: str | None, request: Request, silence: float) -> Stream | Refusal:
        stream = self._dialled(access, lambda: Stream(access, token, request, silence), request)
        if isinstance(stream, Refusal) or stream.status == 200:
            return stream
        return answers.refusal(access, request, stream.failure(), token, self._wall())

    def _authorized(self, work: Callable[[Access, str | None], T | Refusal]) -> T | Refusal:
        outcome = self._once(work, again=False)
        plugin = self.access.kubeconfig is not None and "exec" in self.access.kubeconfig.user
        if isinstance(outcome, answers.HttpRefusal) and outcome.status == 401 and plugin:
            return self._once(work, again=True)
        return outcome

    def _once(self, work: Callable[[Access, str | None], T | Refusal], again: bool) -> T | Refusal:
        with self._opening:
            if again or self.access.stale(self._wall()):
                fresh = self._reopen()
                if isinstance(fresh, Refusal):
                    return fresh
                old, self.access = self.access, fresh
                old.pool.clear()
            access = self.access
        token = access.authorization()
        if isinstance(token, Refusal):
            return token
        unresolved = "" if access.proxied else self._names.trouble(access.host, RESOLVE)
        return diagnose.unresolved(access, unresolved) if unresolved else work(access, token)

    def _dialled(self, access: Access, dial: Callable[[], T], request: Request) -> T | Refusal:
        try:
            try:
                return dial()
            except ProtocolError:
                if request.method != "GET":
                    raise
                return dial()
        except (HTTPError, OSError, TooLarge) as error:
            return diagnose.failure(access, error, gather(access, error, self._wall()))
