"""tailscaled through its LocalAPI, as the mesh wants it (`Tailscaled` in ports.py).

Every call is one request, or two; what cannot be done comes back as a refusal with its cure. Nothing is remembered.

Preferences are written in one place, `masked`, because the LocalAPI has a trap: a list that is said to be set, but is
not there, is wiped, and the answer is 200.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble
from reconciler.mesh.localapi_bus import Bus, Sleep
from reconciler.mesh.localapi_decode import preferences, tailnet
from reconciler.mesh.localapi_transport import Transport
from reconciler.mesh.model import Prefs, Tailnet
from reconciler.mesh.ports import Notice

READ_SECONDS = 3.0  # an answer takes milliseconds; what is shown must be true within five seconds
WRITE_SECONDS = 10.0
ROUTES = "AdvertiseRoutes"


class LocalApi:
    def __init__(
        self,
        socket: Path,
        *,
        read_seconds: float = READ_SECONDS,
        write_seconds: float = WRITE_SECONDS,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._transport = Transport(socket)
        self._read_seconds = read_seconds
        self._write_seconds = write_seconds
        self._bus = Bus(self._open_bus, sleep, random.random)

    async def close(self) -> None:
        await self._bus.close()
        await self._transport.close()

    async def status(self) -> Tailnet | Refusal:
        body = await self._object("GET", "status", self._read_seconds)
        return body if isinstance(body, Refusal) else tailnet(body)

    async def prefs(self) -> Prefs | Refusal:
        body = await self._object("GET", "prefs", self._read_seconds)
        return body if isinstance(body, Refusal) else preferences(body)

    async def edit(self, changes: Mapping[str, Any]) -> Prefs | Refusal:
        if not changes:
            return await self.prefs()
        body = await self._object("PATCH", "prefs", self._write_seconds, masked(changes))
        return body if isinstance(body, Refusal) else preferences(body)

    async def start(self, auth_key: str = "", prefs: Mapping[str, Any] | None = None) -> Refusal | None:
        body: dict[str, Any] = {}
        if auth_key:
            body["AuthKey"] = auth_key
        if prefs is not None:
            body["UpdatePrefs"] = dict(prefs)
        refusal = await self._post("start", body, auth_key)
        if refusal is not None or not auth_key:
            return refusal
        return await self._post("login-interactive", None, auth_key)  # without it the key is not used

    def watch(self) -> AsyncIterator[Notice]:
        return self._bus.watch()

    async def _open_bus(self, mask: int) -> aiohttp.ClientResponse | Refusal:
        return await self._transport.open(f"watch-ipn-bus?mask={mask}", self._read_seconds)

    async def _post(self, path: str, body: dict[str, Any] | None, secret: str) -> Refusal | None:
        answer = await self._transport.call("POST", path, self._write_seconds, body, secret)
        return answer if isinstance(answer, Refusal) else None

    async def _object(
        self, method: str, path: str, seconds: float, body: dict[str, Any] | None = None
    ) -> dict[str, Any] | Refusal:
        content = await self._transport.call(method, path, seconds, body)
        if isinstance(content, Refusal):
            return content
        try:
            answer = orjson.loads(content)
        except orjson.JSONDecodeError:
            answer = None
        if isinstance(answer, dict):
            return answer
        what = f"tailscaled answered {method} {path} with {content[:40]!r}, which is no JSON object"
        return Refusal(Trouble.TAILSCALED_ANSWER, what, "see that it is tailscaled that listens on tailscale.socket")


def masked(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The body that changes these preferences and no others. A list is given whole, and empty to empty it."""
    if any(name.endswith("Set") for name in changes) or not isinstance(changes.get(ROUTES, ()), list | tuple):
        raise ValueError(f"these would wipe what they do not name: {', '.join(changes)}")
    return {**changes, **{f"{name}Set": True for name in changes}}
