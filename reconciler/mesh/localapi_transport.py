"""One call of tailscaled's LocalAPI over its unix socket: the answer, or why there is none, with the cure.

tailscaled removes its socket and makes it anew at each start, so no connection outlives its call, and whether
tailscaled is there is found out anew each time. Each call has a time after which it is given up, and each answer a
size; the event bus alone may last.

The auth key is in a request's body and nowhere else: no exception of aiohttp is passed on, and should tailscaled
repeat the key, it is blanked before a word of it is told.
"""

from __future__ import annotations

import asyncio
import errno
import re
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble

BASE = "http://local-tailscaled.sock/localapi/v0/"  # tailscaled answers no other Host
MAX_ANSWER = 64 << 20  # bytes; a peer takes 1 to 2 KiB
MAX_WORDS = 200
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029]+")
_LOCKED = "config file is locked"


class _TooMuch(aiohttp.ClientError):
    """More than MAX_ANSWER."""


class Transport:
    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def call(
        self, method: str, path: str, seconds: float, body: dict[str, Any] | None = None, secret: str = ""
    ) -> bytes | Refusal:
        try:
            async with asyncio.timeout(seconds), self._request(method, path, body) as response:
                content = await _content(response)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return self._unreachable(f"{method} {path}", error, seconds)
        if response.status in (200, 204):
            return content
        return self._refused(f"{method} {path}", response.status, _words(content, secret))

    async def open(self, path: str, seconds: float) -> aiohttp.ClientResponse | Refusal:
        """An answer that lasts: `seconds` are for its beginning, and the caller closes it."""
        try:
            async with asyncio.timeout(seconds):
                response: aiohttp.ClientResponse = await self._request("GET", path)
                if response.status == 200:
                    return response
                async with response:
                    content = await _content(response)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return self._unreachable(f"GET {path}", error, seconds)
        return self._refused(f"GET {path}", response.status, _words(content))

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(self._socket), force_close=True, limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
            )
        data = None if body is None else orjson.dumps(body)
        return self._session.request(method, BASE + path, data=data, allow_redirects=False)

    # --- why not

    def _refused(self, call: str, status: int, words: str) -> Refusal:
        what = f"tailscaled answered {call} with {status}" + (f": {words}" if words else "")
        if _LOCKED in words:
            cure = 'write "Locked": false into the file given to tailscaled --config, and restart tailscaled'
            return Refusal(Trouble.TAILSCALED_LOCKED, what, cure)
        if status == 403:
            cure = "run the daemon as root, or give its user the right: `tailscale set --operator=USER`"
            return Refusal(Trouble.TAILSCALED_ANSWER, what, cure)
        return Refusal(Trouble.TAILSCALED_ANSWER, what, "see tailscaled's log for this request")

    def _unreachable(self, call: str, error: Exception, seconds: float) -> Refusal:
        if isinstance(error, aiohttp.ClientResponseError):
            what = f"what listens on {self._socket} does not speak HTTP"
            return Refusal(Trouble.TAILSCALED_ANSWER, what, "name tailscaled's socket with tailscale.socket")
        if isinstance(error, _TooMuch):
            what = f"tailscaled on {self._socket} answered {call} with more than {MAX_ANSWER >> 20} MiB"
            return Refusal(Trouble.TAILSCALED_ANSWER, what, "see tailscaled's log for this request")
        if isinstance(error, TimeoutError):
            what = f"tailscaled on {self._socket} did not answer {call} within {seconds:g} s"
            cure = "see whether tailscaled, or the whole node, is overloaded or stuck"
        elif isinstance(error, aiohttp.ClientConnectorError):
            what, cure = self._unconnected(error.os_error)
        else:
            what = f"tailscaled on {self._socket} broke off {call}"
            cure = "see in its log whether it ended, and why"
        return Refusal(Trouble.TAILSCALED_UNREACHABLE, what, cure)

    def _unconnected(self, error: OSError) -> tuple[str, str]:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return f"{self._socket} does not exist", "start tailscaled, or name its socket with tailscale.socket"
        if error.errno in (errno.EACCES, errno.EPERM):
            return f"{self._socket} may not be opened by this user", "run the daemon as root"
        if error.errno == errno.ECONNREFUSED and not self._socket.is_socket():
            return f"{self._socket} is not a socket", "name tailscaled's socket with tailscale.socket"
        if error.errno == errno.ECONNREFUSED:
            return f"nobody listens on {self._socket}: tailscaled has ended", "start tailscaled, and see its log"
        return f"{self._socket} cannot be connected to: {error.strerror or error}", "see that tailscaled runs"


async def _content(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for piece in response.content.iter_any():
        content += piece
        if len(content) > MAX_ANSWER:
            raise _TooMuch
    return bytes(content)


def _words(content: bytes, secret: str = "") -> str:
    """Of a failure: an object with `Error`, or plain text."""
    text = content[: 8 * MAX_WORDS].decode(errors="replace")
    try:
        said = orjson.loads(content)
    except orjson.JSONDecodeError:
        said = None
    if isinstance(said, dict) and isinstance(said.get("Error"), str):
        text = said["Error"]
    if secret:
        text = text.replace(secret, "[key]")
    return _UNPRINTABLE.sub(" ", text).strip()[:MAX_WORDS]
