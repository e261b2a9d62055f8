"""Sends what is worth an event, as far as `events.Limiter` lets it pass.

What the API server has, or will never take, counts as said. What it could not take now is tried again after a rest,
and everything else with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cni.spec import Refusal
from reconciler.kube.codes import Trouble
from reconciler.kube.events import Limiter, Notice, body_of, path_of
from reconciler.kube.patience import Rest
from reconciler.kube.ports import Api, HttpRefusal
from reconciler.ports import Clock

AT_ONCE = 5
NOT_NOW = (401, 429)  # of those that are no fault of the server


class Herald:
    def __init__(self, clock: Clock, host: str, warn: Callable[[str, str], None]) -> None:
        self._clock = clock
        self._host = host
        self._warn = warn
        self._limiter = Limiter()
        self._rest = Rest()
        self._not_before = float("-inf")

    def due(self, notice: Notice) -> bool:
        return self._limiter.due(notice, self._clock.mono_ns() / 1e9)

    async def tell(self, api: Api, notices: Iterable[Notice]) -> None:
        """Some of those that are due; the rest with the next turn."""
        now = self._clock.mono_ns() / 1e9
        if now < self._not_before:
            return
        for notice in [each for each in dict.fromkeys(notices) if self.due(each)][:AT_ONCE]:
            answer = await api.create(path_of(notice), body_of(notice, self._host, self._clock.wall()))
            if isinstance(answer, Refusal) and not _final(answer):
                self._not_before = now + self._rest.after(answer)
                return
            self._rest.over()
            self._limiter.said(notice, now)
            if isinstance(answer, Refusal) and answer.code == Trouble.API_FORBIDDEN:
                self._warn("kube events", f"events cannot be written, so `kubectl describe` lacks them: {answer}")


def _final(refusal: Refusal) -> bool:
    """It exists already, is not permitted, or its namespace is gone."""
    status = refusal.status if isinstance(refusal, HttpRefusal) else 0
    return refusal.code == Trouble.API_FORBIDDEN or (400 <= status < 500 and status not in NOT_NOW)
