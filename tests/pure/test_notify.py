"""What the service manager is told: when, in which words, by which socket; and that one that hangs harms nobody."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from dataclasses import replace

import pytest
from samples import STATUS

from reconciler.operate import notify
from reconciler.operate.log import Once
from reconciler.operate.notify import Notifier, in_words
from reconciler.operate.status import NotReady

READY = replace(STATUS, ready=True, not_ready=())
WAITS = replace(STATUS, ready=False, not_ready=(NotReady("pool 10.244.1.0/24 is empty", "delete pods"),))


class Manager:
    def __init__(self, address):
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        self.once = Once(logging.getLogger("headcni"))

    def notifier(self, **environ):
        return Notifier({"NOTIFY_SOCKET": self.address, **environ}, self.once)

    def heard(self):
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return messages


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    made = Manager(str(tmp_path / "notify") if request.param == "path" else f"@headcni-test-{os.getpid()}")
    with made.socket:
        yield made


def test_ready_is_said_once_when_the_node_is_ready_for_the_first_time(manager):
    notifier = manager.notifier()
    for status in (None, None, WAITS, WAITS, READY, READY, WAITS, READY):
        notifier._tell(status)
    waits = "STATUS=not ready: pool 10.244.1.0/24 is empty"
    assert manager.heard() == ["STATUS=starting", waits, "READY=1\nSTATUS=ready", waits, "STATUS=ready"]


def test_a_reload_is_framed_but_makes_nothing_ready_that_was_not(manager):
    notifier = manager.notifier()
    notifier.reloading()
    notifier.reloaded()
    assert manager.heard() == []
    notifier._tell(READY)
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    notifier.reloaded()
    _, reloading, ready = manager.heard()
    word, _, usec = reloading.partition("\nMONOTONIC_USEC=")
    assert (word, ready) == ("RELOADING=1", "READY=1")
    assert before <= int(usec) <= time.monotonic_ns() // 1000


def test_stopping(manager):
    manager.notifier().stopping()
    assert manager.heard() == ["STOPPING=1\nSTATUS=stopping"]


def test_the_status_is_one_line():
    reasons = (NotReady("a\nREADY=1", "b"), NotReady("c", "d", "why"))
    assert in_words(replace(WAITS, not_ready=reasons)) == "not ready: a READY=1; c: why"


def run(notifier, heard_enough):
    async def until():
        task = asyncio.create_task(notifier.run(lambda: READY))
        while not heard_enough():  # noqa: ASYNC110  # what the other end of a socket has is no event of this loop
            await asyncio.sleep(0.001)
        task.cancel()

    asyncio.run(asyncio.wait_for(until(), 20))


def test_the_beat_comes_twice_in_the_watchdogs_time(manager):
    messages = []

    def enough():
        messages.extend(manager.heard())
        return messages.count("WATCHDOG=1") == 5

    began = time.monotonic()
    run(manager.notifier(WATCHDOG_USEC="100000", WATCHDOG_PID=str(os.getpid())), enough)
    assert time.monotonic() - began >= 4 * 0.05
    assert "READY=1\nSTATUS=ready" in messages


@pytest.mark.parametrize(
    "environ", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "many"}, {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"}]
)
def test_without_a_watchdog_for_us_there_is_no_beat(manager, environ, monkeypatch):
    monkeypatch.setattr(notify, "LOOK_SECONDS", 0.01)
    statuses = iter([READY, WAITS] * 20)
    notifier = manager.notifier(**environ)
    messages = []

    def enough():
        notifier._tell(next(statuses))
        messages.extend(manager.heard())
        return len(messages) > 20

    run(notifier, enough)
    assert "WATCHDOG=1" not in messages


def test_without_a_socket_nothing_is_wanted_and_nothing_sent():
    once = Once(logging.getLogger("headcni"))
    notifier = Notifier({}, once)
    assert not notifier.wanted
    notifier._tell(READY)
    notifier.stopping()
    assert once.said == []


@pytest.mark.parametrize("address", ["/nonexistent/notify", "vsock:2:1234", "/" + "x" * 200])
def test_a_socket_that_cannot_be_reached_is_a_warning_and_ready_is_said_later(address, tmp_path):
    once = Once(logging.getLogger("headcni"))
    notifier = Notifier({"NOTIFY_SOCKET": address}, once)
    notifier._tell(READY)
    (warning,) = once.said
    assert warning.startswith(f"NOTIFY_SOCKET={address}: ")
    manager = Manager(str(tmp_path / "notify"))
    with manager.socket:
        notifier._address = manager.address
        notifier._tell(READY)
        assert manager.heard() == ["READY=1\nSTATUS=ready"]
        assert once.said == []


def test_a_manager_that_does_not_read_does_not_stop_the_daemon(manager):
    notifier = manager.notifier()
    for number in range(2000):
        notifier._tell(replace(WAITS, not_ready=(NotReady(f"reason {number}", ""),)))
    assert len(manager.once.said) == 1
    manager.heard()
    notifier._tell(READY)
    assert manager.once.said == [], "it reads again"
