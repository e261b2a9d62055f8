"""What the service manager is told, as systemd's sd_notify(3) has it: ready, in a few words what is the matter, alive.

Each message is one datagram to the socket that the manager names. Without one nothing is sent. READY goes out when the
node is ready for the first time, not when the process runs: a unit that waits in "activating" with the reason beside it
says what a green one would hide. The watchdog's beat comes from the event loop, so a loop that is stuck is found out.

A message that cannot be sent is no reason to do anything else worse: READY and STATUS are sent again a second later,
a beat that is lost is followed by the next.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping

from reconciler.operate.log import Once
from reconciler.operate.status import Status

LOOK_SECONDS = 1.0
Latest = Callable[[], Status | None]


class Notifier:
    def __init__(self, environ: Mapping[str, str], warnings: Once) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._beat_seconds = _watchdog_seconds(environ) / 2
        self._warnings = warnings
        self._ready = False
        self._status = ""

    @property
    def wanted(self) -> bool:
        return bool(self._address)

    async def run(self, latest: Latest) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(latest))
            if self._beat_seconds:
                group.create_task(self._beat())

    def reloading(self) -> None:
        """Only what was ready can be so again."""
        if self._ready:
            self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        if self._ready:
            self._send("READY=1")

    def stopping(self) -> None:
        self._send("STOPPING=1", "STATUS=stopping")

    async def _follow(self, latest: Latest) -> None:
        while True:
            self._tell(latest())
            await asyncio.sleep(LOOK_SECONDS)

    async def _beat(self) -> None:
        while True:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._beat_seconds)

    def _tell(self, status: Status | None) -> None:
        words = in_words(status)
        if status and status.ready and not self._ready:
            self._ready = self._send("READY=1", f"STATUS={words}")
            self._status = words
        elif words != self._status and self._send(f"STATUS={words}"):
            self._status = words

    def _send(self, *lines: str) -> bool:
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as manager:
                manager.sendto("\n".join(lines).encode(), _path(self._address))
        except OSError as error:
            why = f"NOTIFY_SOCKET={self._address}: {error.strerror or error}; the service manager is not told"
            self._warnings.warn("notify", why)
            return False
        self._warnings.clear("notify")
        return True


def in_words(status: Status | None) -> str:
    """One line."""
    if status is None:
        return "starting"
    reasons = "; ".join(": ".join(filter(None, (each.what, each.why))) for each in status.not_ready)
    return "ready" if status.ready else " ".join(f"not ready: {reasons}".split())


def _path(address: str) -> str:
    """An @ stands for the zero byte that an abstract name begins with."""
    return "\0" + address[1:] if address.startswith("@") else address


def _watchdog_seconds(environ: Mapping[str, str]) -> float:
    usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    ours = pid in ("", str(os.getpid()))
    return int(usec) / 1e6 if usec.isdecimal() and ours else 0.0
