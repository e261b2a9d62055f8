"""The real API: `ports.Api` over one open way. Blocking work is in threads (`calls.py`); every call has a bound.

Closing ends its watches, so that who follows one can go on with a better client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, closing
from typing import Any

import orjson
from urllib3.exceptions import HTTPError

from cni.spec import Refusal
from reconciler.kube import diagnose
from reconciler.kube.calls import Calls
from reconciler.kube.codes import Trouble
from reconciler.kube.evidence import Evidence
from reconciler.kube.ports import Object, Patch, Seen
from reconciler.kube.transport import Request, Stream, TooLarge
from reconciler.kube.watch import SILENCE, Event, Kind, Page, watch
from reconciler.threads import Threads

CALL = 10.0  # seconds for an answer
SLACK = 15.0  # and for what else belongs to a call: names, an exec plugin, evidence after a failure

Keep = Callable[[Object], Any]


class _Closed(Exception):
    pass


class Client:
    def __init__(self, calls: Calls, threads: Threads, told: Callable[[Refusal], None] = lambda refusal: None) -> None:
        """`told` hears of each refusal that puts the way itself in doubt."""
        self._calls = calls
        self._threads = threads
        self._told = told
        self._closed = asyncio.Event()
        self._watching: set[_Watching] = set()

    @property
    def endpoint(self) -> str:
        return str(self._calls.access)

    def begin_anew(self) -> None:
        for each in list(self._watching):
            each.stop()

    async def close(self) -> None:
        self._closed.set()
        self.begin_anew()
        self._calls.access.pool.clear()

    # --- calls

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Any | Refusal:
        return await self.ask(Request("GET", path, query or {}))

    async def create(self, path: str, body: Object) -> Any | Refusal:
        return await self.ask(Request("POST", path, body=orjson.dumps(body)))

    async def replace(self, path: str, body: Object) -> Any | Refusal:
        return await self.ask(Request("PUT", path, body=orjson.dumps(body)))

    async def patch(self, path: str, body: Any, kind: Patch) -> Any | Refusal:
        return await self.ask(Request("PATCH", path, body=orjson.dumps(body), kind=kind.value))

    async def ask(
        self, request: Request, within: float = CALL, shape: Callable[[Any], Any] = lambda answer: answer
    ) -> Any | Refusal:
        """`shape` is applied to the answer in the thread."""

        def work() -> Any | Refusal:
            answer = self._calls.call(request, within)
            return answer if isinstance(answer, Refusal) else shape(answer)

        if self._closed.is_set():
            return Refusal(Trouble.API_UNREACHABLE, f"{self.endpoint} is not used any more", "ask again")
        return self._heard(await self._in_time(work, within))

    async def _in_time(self, work: Callable[[], Any], within: float) -> Any | Refusal:
        try:
            return await self._threads.run(work, within + SLACK)
        except TimeoutError as error:
            return diagnose.failure(self._calls.access, error, Evidence())

    def _heard(self, outcome: Any | Refusal) -> Any | Refusal:
        if isinstance(outcome, Refusal) and outcome.code != Trouble.API_ANSWER:
            self._told(outcome)
        return outcome

    # --- watches

    async def watch(
        self, path: str, query: Mapping[str, str] | None = None, keep: Keep = lambda found: found
    ) -> AsyncIterator[Seen | Refusal]:
        """`keep` says what is kept of each object, as soon as it has come; `None`: nothing."""
        source = _Source(self, path, keep)
        async with aclosing(watch(source, query or {}, self._pause, time.monotonic)) as seen:
            try:
                async for each in seen:
                    yield each
            except _Closed:
                return

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        except TimeoutError:
            return
        raise _Closed

    async def page(self, path: str, query: Mapping[str, str], keep: Keep) -> Page | Refusal:
        if self._closed.is_set():
            raise _Closed

        def page_of(answer: Any) -> Page | Refusal:
            return _page(self.endpoint, answer, keep)

        page: Page | Refusal = await self.ask(Request("GET", path, query), shape=page_of)
        return page

    async def events(self, path: str, query: Mapping[str, str], keep: Keep) -> AsyncGenerator[Event | Refusal, None]:
        watching = _Watching(self._calls, Request("GET", path, query), keep)
        self._watching.add(watching)
        try:
            async with aclosing(self._threads.stream(watching.events, watching.stop)) as events:
                async for event in events:
                    if self._closed.is_set():
                        raise _Closed
                    yield self._heard(event)
        finally:
            self._watching.discard(watching)
        if self._closed.is_set():
            raise _Closed


class _Source:
    """What `watch` asks for, of this client."""

    def __init__(self, client: Client, path: str, keep: Keep) -> None:
        self._client, self._path, self._keep = client, path, keep

    async def page(self, query: Mapping[str, str]) -> Page | Refusal:
        return await self._client.page(self._path, query, self._keep)

    def events(self, query: Mapping[str, str]) -> AsyncGenerator[Event | Refusal, None]:
        return self._client.events(self._path, query, self._keep)


class _Watching:
    """One stream, in its thread; `stop` may come from another, also before it has begun."""

    def __init__(self, calls: Calls, request: Request, keep: Keep) -> None:
        self._calls, self._request, self._keep = calls, request, keep
        self._stream: Stream | None = None
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True
        if self._stream is not None:
            self._stream.stop()

    def events(self) -> Iterator[Event | Refusal]:
        stream = self._calls.stream(self._request, SILENCE)
        if isinstance(stream, Refusal):
            yield stream
            return
        self._stream = stream
        with closing(stream):
            yield Event(Kind.BEGUN)
            for kind, found in _told(stream) if not self._stopped else ():
                yield _event(kind, found, self._keep)


def _page(endpoint: str, data: Mapping[str, Any], keep: Keep) -> Page | Refusal:
    items, meta = data.get("items"), _meta(data)
    version, following = meta.get("resourceVersion"), meta.get("continue")
    if not isinstance(version, str) or not version or not isinstance(items, list | None):
        return Refusal(
            Trouble.API_ANSWER, f"{endpoint}: the answer is no list of objects", "see that it is an API server"
        )
    kept = [keep(item) for item in items or () if isinstance(item, Mapping)]
    return Page(tuple([each for each in kept if each is not None]), version, str(following or ""))


def _told(stream: Stream) -> Iterator[tuple[Kind, Mapping[str, Any]]]:
    """Until it is broken off, silent, cut in the middle of a line, or stopped: then it has ended."""
    try:
        for line in stream.lines():
            told = orjson.loads(line)
            yield Kind(told["type"]), {**told["object"]}
    except (HTTPError, OSError, ValueError, TooLarge, KeyError, TypeError):  # the last two: it is no event
        return


def _event(kind: Kind, found: Mapping[str, Any], keep: Keep) -> Event:
    if kind is Kind.ERROR:
        status = found.get("code")
        return Event(kind, status=status if isinstance(status, int) else 0)
    version = str(_meta(found).get("resourceVersion") or "")
    return Event(kind, None if kind is Kind.BOOKMARK else keep(found), version)


def _meta(found: Mapping[str, Any]) -> Mapping[str, Any]:
    meta = found.get("metadata")
    return meta if isinstance(meta, Mapping) else {}
