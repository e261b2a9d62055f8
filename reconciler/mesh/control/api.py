"""One call of Headscale's API: what came back, or why there is none, with the cure.

The key is asked for at each call, so that one which was changed on disk is used at once. It goes into the header and
nowhere else: redirects are not followed, no exception of aiohttp is passed on (some hold the request, and with it the
key), and should a server repeat the key in an answer, it is blanked before a word of it is told.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble
from reconciler.mesh.control import tls

TIMEOUT = 15.0  # seconds for one call; approving many at once on 0.29 takes one to two
MAX_ANSWER = 64 << 20  # bytes; a node takes less than 4 KiB
MAX_WORDS = 200
MAX_CONNECTIONS = 32
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029]+")
_ORIGIN = re.compile(r"https?://[\w.:\[\]-]+")
_KEY = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Answer:
    call: str  # method and path
    status: int
    data: Any = field(repr=False)  # its JSON; None if it is none. Old servers put auth keys into it
    words: str = ""  # of a failure, for people

    def refusal(self, url: str) -> Refusal:
        what = f"Headscale at {url} answered {self.call} with {self.status}"
        said = f": {self.words}" if self.words else ""
        return Refusal(Trouble.HEADSCALE_ANSWER, what + said, "see Headscale's log for this request")


class Api:
    def __init__(self, url: str, key: Callable[[], str | Refusal], ca_file: Path | None, timeout: float) -> None:
        self.url = url
        self._key = key
        self._ca_file = ca_file
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer | Refusal:
        """With the key. A failure that Headscale itself reports is an `Answer`, unless it is about the key."""
        key = self._key()
        if isinstance(key, Refusal):
            return key
        if not _KEY.fullmatch(key):
            what = "the API key for Headscale is empty or has characters that no key has"
            return Refusal(Trouble.HEADSCALE_KEY, what, "write the key alone, on one line")
        answer = await self._send(method, path, body, {"Authorization": f"Bearer {key}"})
        if isinstance(answer, Refusal):
            return answer
        if answer.status in (401, 403) or (answer.status == 500 and answer.words == "Unauthorized"):  # 500: up to 0.26
            what = f"Headscale at {self.url} does not accept the API key ({answer.status})"
            cure = "make a new one (headscale apikeys create) and give it by headscale.apiKeyFile or HEADCNI_API_KEY"
            return Refusal(Trouble.HEADSCALE_KEY, what, cure)
        return Answer(answer.call, answer.status, answer.data, answer.words.replace(key, "[key]")[:MAX_WORDS])

    async def open_call(self, path: str) -> Answer | Refusal:
        """Without the key."""
        return await self._send("GET", path, None, {})

    async def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]
    ) -> Answer | Refusal:
        session = self._opened()
        if isinstance(session, Refusal):
            return session
        try:
            async with asyncio.timeout(self._timeout):
                async with session.request(
                    method, self.url + path, json=body, headers=headers, allow_redirects=False
                ) as response:
                    if 300 <= response.status < 400:
                        return self._elsewhere(response.headers.get("Location", ""))
                    return _answer(f"{method} {path}", response, await _content(response))
        except aiohttp.ClientSSLError as error:
            await self.close()  # so that the next call reads caFile again
            return await tls.refusal(self.url, _cause(error), self._ca_file)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return self._unreachable(error)

    def _opened(self) -> aiohttp.ClientSession | Refusal:
        if self._session is None:
            trust: ssl.SSLContext | bool | Refusal = True
            if self.url.startswith("https:"):
                trust = tls.context(self._ca_file)
            if isinstance(trust, Refusal):
                return trust
            connector = aiohttp.TCPConnector(ssl=trust, limit=MAX_CONNECTIONS)
            self._session = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=None)
            )
        return self._session

    def _elsewhere(self, location: str) -> Refusal:
        named = _ORIGIN.match(location)
        what = f"{self.url} is not Headscale: it sends callers to {named.group() if named else 'another page'}"
        return Refusal(Trouble.HEADSCALE_URL, what, "write the URL of Headscale itself; a redirect gets no key")

    def _unreachable(self, error: Exception) -> Refusal:
        cure = "see that Headscale runs and that this URL is reachable from here; approved routes stay in force"
        if isinstance(error, aiohttp.ClientResponseError):
            what = f"{self.url} does not speak HTTP"
            return Refusal(Trouble.HEADSCALE_URL, what, "write scheme, host and port of Headscale")
        if isinstance(error, TimeoutError):
            what = f"did not answer within {self._timeout:g} s"
        elif isinstance(error, aiohttp.ClientConnectorDNSError):
            what = "has a host name that cannot be resolved"
        elif isinstance(error, aiohttp.ClientConnectorError):
            number = error.os_error.errno
            what = f"cannot be reached: {os.strerror(number) if number else 'no connection'}"
        else:
            what = "broke off the connection"
        return Refusal(Trouble.HEADSCALE_UNREACHABLE, f"Headscale at {self.url} {what}", cure)


def _cause(error: aiohttp.ClientSSLError) -> Exception:
    return error.certificate_error if isinstance(error, aiohttp.ClientConnectorCertificateError) else error.os_error


async def _content(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for part in response.content.iter_chunked(1 << 16):
        content += part
        if len(content) > MAX_ANSWER:
            return b""  # which is not the JSON that is looked for
    return bytes(content)


def _answer(call: str, response: aiohttp.ClientResponse, content: bytes) -> Answer:
    try:
        data = orjson.loads(content)
    except ValueError:
        data = None
    return Answer(call, response.status, data, "" if response.status == 200 else _words(data, content))


def _words(data: Any, content: bytes) -> str:
    """Of an error: as grpc-gateway has it up to 0.29, as RFC 7807 has it from 0.30 on, or plain text."""
    if isinstance(data, Mapping):
        listed = data.get("errors")
        causes = [each.get("message") for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
        given = [data.get("message"), data.get("detail") or data.get("title"), *causes]
        return _shortened(": ".join(each for each in given if isinstance(each, str)))
    plain = content[: 4 * MAX_WORDS].decode(errors="replace")
    return "a page of HTML" if plain.lstrip().startswith("<") else _shortened(plain)


def _shortened(text: str) -> str:
    return _UNPRINTABLE.sub(" ", text).strip()[: 4 * MAX_WORDS]
