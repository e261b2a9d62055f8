"""One request on a way that is open, and its answer in bytes. Blocking, in a thread; every wait has a bound.

The pool is the package's; redirects are not followed, for the next server must not get the token. What goes wrong is
an exception of urllib3, and `diagnose.py` makes of it what a person can use.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from urllib.parse import urlencode

import urllib3
from urllib3.exceptions import HTTPError

from reconciler.kube.access import Access

CONNECT = 2.0  # seconds
BEGIN = 10.0  # until a stream's first byte
LARGEST = 64 << 20  # bytes; a page of nodes takes two
CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = field(default=None, repr=False)
    kind: str = "application/json"

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def target(self) -> str:
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes = field(repr=False)
    retry_after: float = 0.0
    location: str = ""


class TooLarge(Exception):
    """The answer is not one that is wanted."""


def send(access: Access, authorization: str | None, request: Request, within: float) -> Answer:
    give_up = time.monotonic() + within
    with closing(_begin(access, authorization, request, within)) as response:  # read to its end, it is in the pool
        parts, size = [], 0
        for part in response.stream(CHUNK):
            parts.append(part)
            size += len(part)
            if size > LARGEST:
                raise TooLarge
            if time.monotonic() > give_up:
                raise TimeoutError
        return _answer(response, b"".join(parts))


class Stream:
    """An answer without end, line by line."""

    def __init__(self, access: Access, authorization: str | None, request: Request, silence: float) -> None:
        self._response = _begin(access, authorization, request, BEGIN)
        self.status = self._response.status
        socket = getattr(self._response.connection, "sock", None)
        if socket is not None:
            socket.settimeout(silence)

    def lines(self) -> Iterator[bytes]:
        """The last one, if it is cut, is left out."""
        rest = b""
        for part in self._response.stream(CHUNK):
            *whole, rest = (rest + part).split(b"\n")
            if len(rest) > LARGEST:
                raise TooLarge
            yield from whole

    def failure(self) -> Answer:
        """Of a stream that did not begin: as much of it as can be read."""
        body = b""
        with closing(self._response), suppress(HTTPError, OSError):
            body = self._response.read(CHUNK)
        return _answer(self._response, body)

    def stop(self) -> None:
        """From any thread: who waits for a line is woken."""
        with suppress(ValueError, RuntimeError, OSError):  # it has ended already
            self._response.shutdown()

    def close(self) -> None:
        self._response.close()


def _begin(access: Access, authorization: str | None, request: Request, silence: float) -> urllib3.BaseHTTPResponse:
    headers = {"Accept": "application/json", "User-Agent": "headcni"}
    if authorization is not None:
        headers["Authorization"] = authorization
    if request.body is not None:
        headers["Content-Type"] = request.kind
    return access.pool.request(
        request.method,
        access.url + request.target,
        body=request.body,
        headers=headers,
        timeout=urllib3.Timeout(connect=min(CONNECT, silence), read=silence),
        retries=False,
        redirect=False,
        preload_content=False,
    )


def _answer(response: urllib3.BaseHTTPResponse, body: bytes) -> Answer:
    waits = response.headers.get("Retry-After", "")
    retry_after = float(waits) if waits.isascii() and waits.isdigit() else 0.0
    return Answer(response.status, body, retry_after, response.headers.get("Location", ""))
