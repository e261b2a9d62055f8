"""Blocking work beside the event loop: outcomes, faults, bounds, and what is left behind."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import aclosing

import pytest

from reconciler.kube.names import Names
from reconciler.threads import AHEAD, AT_ONCE, MOST_LOST, Threads


def run(play):
    async def bounded():
        async with asyncio.timeout(10):
            return await play(Threads())

    return asyncio.run(bounded())


def test_an_outcome_and_a_fault_come_back():
    async def play(threads):
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 // 0, 5)
        return await threads.run(lambda: 7, 5)

    assert run(play) == 7


def test_only_a_few_run_at_once():
    most, running, lock = 0, 0, threading.Lock()

    def work():
        nonlocal most, running
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1

    async def play(threads):
        await asyncio.gather(*[threads.run(work, 5) for _ in range(20)])

    run(play)
    assert most == AT_ONCE


def test_work_that_hangs_is_given_up_and_too_many_of_it_stop_more():
    release = threading.Event()

    async def play(threads):
        for _ in range(AT_ONCE + MOST_LOST):
            with pytest.raises(TimeoutError):
                await threads.run(release.wait, 0.01)
        with pytest.raises(TimeoutError):
            await threads.run(lambda: 1, 5)  # though it would be quick
        release.set()
        while True:
            try:
                return await threads.run(lambda: 1, 5)
            except TimeoutError:
                await asyncio.sleep(0)

    assert run(play) == 1


def test_a_thread_that_ends_after_the_loop_is_no_fault():
    release, ended = threading.Event(), threading.Event()

    def work():
        release.wait()
        ended.set()

    async def play(threads):
        with pytest.raises(TimeoutError):
            await threads.run(work, 0.01)

    run(play)
    release.set()
    assert ended.wait(5)


def test_a_stream_gives_what_comes_and_its_fault_at_the_end():
    def items():
        yield from range(3)
        raise ZeroDivisionError

    async def play(threads):
        async with aclosing(threads.stream(items, lambda: None)) as stream:
            got = [await anext(stream) for _ in range(3)]
            with pytest.raises(ZeroDivisionError):
                await anext(stream)
            return got

    assert run(play) == [0, 1, 2]


def test_a_stream_does_not_run_ahead_of_a_slow_reader():
    made = 0

    def items():
        nonlocal made
        for each in range(1000):
            made += 1
            yield each

    async def play(threads):
        async with aclosing(threads.stream(items, lambda: None)) as stream:
            assert await anext(stream) == 0
            while made <= AHEAD:  # noqa: ASYNC110  # the thread tells nobody
                await asyncio.sleep(0)
            await asyncio.sleep(0.05)
            return made

    assert run(play) <= AHEAD + 2


def test_leaving_a_stream_stops_who_makes_it():
    stopped = threading.Event()

    def items():
        yield 1
        stopped.wait()

    async def play(threads):
        async for _ in (stream := threads.stream(items, stopped.set)):
            break
        await stream.aclose()
        while any(each.name == "kube" for each in threading.enumerate()):  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    run(play)
    assert stopped.is_set()


# --- names


def test_an_address_is_not_asked_for(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: pytest.fail("asked"))
    assert Names().trouble("192.0.2.1", 1) == Names().trouble("fd00::1", 1) == ""


@pytest.mark.parametrize("error", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long")])
def test_a_name_that_does_not_resolve_says_why(monkeypatch, error):
    def fail(*args, **more):
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert Names().trouble("api.example", 5) in ("Name or service not known", "it is not a host name")


def test_a_dead_name_server_holds_nobody_up_and_is_asked_once(monkeypatch):
    release, asked = threading.Event(), []

    def hang(name, *args, **more):
        asked.append(name)
        release.wait()

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    names = Names()
    assert [names.trouble("api.example", 0.01) for _ in range(5)] == ["no name server answered within 0.01 s"] * 5
    assert asked == ["api.example"]
    release.set()
    assert names.trouble("api.example", 5) == ""
    assert names.trouble("api.example", 5) == ""
