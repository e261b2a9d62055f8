"""What holds between our client and tailscaled: run on the stand-in, and on a real one joined to a real Headscale.

Each check is a coroutine over an `Environment`, in this order; the first needs a node that never joined, each of the
others joins it where it is not. What takes time is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Protocol

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble
from reconciler.mesh.localapi import LocalApi
from reconciler.mesh.localapi_decode import unsuitable
from reconciler.mesh.localapi_transport import Transport
from reconciler.mesh.model import Prefs, Tailnet
from reconciler.mesh.ports import Notice

POD, POD6, FOREIGN = "10.244.1.0/24", "fd00:10:244:1::/64", "192.168.44.0/24"
PATIENCE = 20.0


class Environment(Protocol):
    socket: Path
    url: str  # of the control server
    auth_key: str
    quiet: float  # seconds without a word after which the control server has nothing more to say

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def kill(self) -> None: ...

    async def approve(self, prefix: str) -> None: ...

    async def disapprove(self, prefix: str) -> None: ...

    async def expire(self) -> None: ...

    async def delete(self) -> None: ...

    async def lose_control(self) -> None: ...

    async def regain_control(self) -> None: ...


# --- tools


@asynccontextmanager
async def client(environment: Environment) -> AsyncIterator[LocalApi]:
    made = LocalApi(environment.socket)
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def member(environment: Environment) -> AsyncIterator[LocalApi]:
    """A client, of a node that is joined and announces nothing."""
    async with client(environment) as api:
        if (await status(api)).state != "Running":
            await join(api, environment)
        await edit(api, AdvertiseRoutes=[])
        yield api


@asynccontextmanager
async def heard(api: LocalApi) -> AsyncIterator[list[Notice]]:
    """What comes over the bus; connected when the block begins."""
    notices: list[Notice] = []

    async def listen() -> None:
        async for notice in api.watch():
            notices.append(notice)  # noqa: PERF401  # each is to be seen when it comes

    listening = asyncio.create_task(listen())
    try:
        await eventually(lambda: any(each.reconnected for each in notices))
        notices.clear()
        yield notices
    finally:
        listening.cancel()
        await asyncio.wait([listening])


async def eventually(holds: Callable[[], bool | Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            found = holds()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.02)


async def status(api: LocalApi) -> Tailnet:
    seen = await api.status()
    assert isinstance(seen, Tailnet), seen
    return seen


async def prefs(api: LocalApi) -> Prefs:
    seen = await api.prefs()
    assert isinstance(seen, Prefs), seen
    return seen


async def edit(api: LocalApi, **changes: Any) -> Prefs:
    seen = await api.edit(changes)
    assert isinstance(seen, Prefs), seen
    return seen


async def until(api: LocalApi, holds: Callable[[Tailnet], bool]) -> Tailnet:
    async def look() -> bool:
        return holds(await status(api))

    await eventually(look)
    return await status(api)


async def join(api: LocalApi, environment: Environment) -> Tailnet:
    wanted = {
        "ControlURL": environment.url,
        "WantRunning": True,
        "RouteAll": True,
        "NoSNAT": True,
        "NoStatefulFiltering": True,
        "NetfilterMode": 2,
        "CorpDNS": False,
        "Hostname": "node1",
    }
    assert await api.start(environment.auth_key, wanted) is None
    return await until(api, lambda seen: seen.running and seen.me.online)


def networks(*texts: str) -> frozenset[Any]:
    return frozenset(ip_network(text) for text in texts)


# --- checks


async def a_node_that_never_joined(environment: Environment) -> None:
    async with client(environment) as api:
        seen = await status(api)
        assert (seen.state, seen.has_node_key, seen.auth_url) == ("NeedsLogin", False, "")
        assert (seen.me.key, seen.me.addresses, dict(seen.peers)) == ("", (), {})
        assert seen.tun
        assert seen.version
        assert unsuitable(seen) is None
        had = await prefs(api)
        assert (had.control_url, had.want_running, had.logged_out, had.advertise) == ("", False, True, ())


async def a_bad_key_is_told_on_the_bus_and_a_good_one_still_joins(environment: Environment) -> None:
    async with client(environment) as api, heard(api) as notices:
        assert await api.start("no-such-key", {"ControlURL": environment.url, "WantRunning": True}) is None
        await eventually(lambda: any(each.error for each in notices))
        seen = await until(api, lambda seen: any("last login error" in each for each in seen.health))
        assert (seen.state, seen.has_node_key) == ("NeedsLogin", False)
        assert "no-such-key" not in repr((seen, notices))
        await join(api, environment)


async def joining_sets_all_preferences(environment: Environment) -> None:
    async with member(environment) as api:
        seen = await status(api)
        assert seen.has_node_key
        assert seen.me.key.startswith("nodekey:")
        assert seen.me.id
        assert (seen.me.name, seen.me.dns_name) == ("node1", f"node1.{seen.magic_suffix}")
        assert {each.version for each in seen.me.addresses} == {4, 6}
        had = await prefs(api)
        assert (had.control_url, had.want_running, had.logged_out) == (environment.url, True, False)
        assert {name: had.raw[name] for name in ("RouteAll", "NoSNAT", "NetfilterMode", "CorpDNS")} == {
            "RouteAll": True,
            "NoSNAT": True,
            "NetfilterMode": 2,
            "CorpDNS": False,
        }


async def an_edit_changes_what_it_names_and_nothing_else(environment: Environment) -> None:
    async with member(environment) as api:
        await edit(api, AdvertiseRoutes=[FOREIGN, POD, FOREIGN], Hostname="node1")
        before = await prefs(api)
        assert before.advertise == (FOREIGN, POD, FOREIGN)  # neither sorted nor made unique
        after = await edit(api, ShieldsUp=True)
        assert after == await prefs(api)
        assert after.raw == {**before.raw, "ShieldsUp": True}
        assert (await edit(api, ShieldsUp=False)).raw == before.raw
        assert (await edit(api, AdvertiseRoutes=[])).advertise == ()


async def an_unknown_preference_is_passed_over(environment: Environment) -> None:
    async with member(environment) as api:
        before = await prefs(api)
        assert await edit(api, NoSuchPreference=True) == before


async def bad_routes_are_refused_and_change_nothing(environment: Environment) -> None:
    async with member(environment) as api:
        await edit(api, AdvertiseRoutes=[FOREIGN])
        for bad, words in (
            ("10.244.1.5/24", "has non-address bits set; expected 10.244.1.0/24"),
            ("10.244.1.0", "no '/'"),
        ):
            refusal = await api.edit({"AdvertiseRoutes": [bad]})
            assert isinstance(refusal, Refusal)
            assert refusal.code == Trouble.TAILSCALED_ANSWER
            assert words in refusal.msg
        assert (await prefs(api)).advertise == (FOREIGN,)


async def a_list_said_to_be_set_and_not_there_is_wiped(environment: Environment) -> None:
    """The trap for which `masked` exists."""
    async with member(environment) as api:
        await edit(api, AdvertiseRoutes=[FOREIGN])
        transport = Transport(environment.socket)
        try:
            assert isinstance(await transport.call("PATCH", "prefs", PATIENCE, {"AdvertiseRoutesSet": True}), bytes)
        finally:
            await transport.close()
        assert (await prefs(api)).advertise == ()


async def an_edit_is_heard(environment: Environment) -> None:
    async with member(environment) as api, heard(api) as notices:
        await edit(api, AdvertiseRoutes=[FOREIGN])
        await eventually(lambda: any((FOREIGN,) in each.written for each in notices))
        await edit(api, AdvertiseRoutes=[])
        await eventually(lambda: any(() in each.written for each in notices))


async def an_approval_and_its_loss_are_heard_and_certain_after_a_refresh(environment: Environment) -> None:
    """Before it, `Self` may still tell the old, or not: the real one did both."""
    async with member(environment) as api, heard(api) as notices:
        await edit(api, AdvertiseRoutes=[POD, POD6])
        await settled(environment, notices)
        await environment.approve(POD)
        await eventually(lambda: any(each.about_me for each in notices))
        await refresh(api)
        assert (await until(api, lambda seen: bool(seen.me.primary))).me.primary == networks(POD)
        assert (await status(api)).me.routes == networks(POD)
        await settled(environment, notices)
        await environment.disapprove(POD)
        await eventually(lambda: any(each.about_me for each in notices))
        await refresh(api)
        await until(api, lambda seen: not seen.me.primary)


async def a_refresh_keeps_preferences_and_state(environment: Environment) -> None:
    async with member(environment) as api:
        before = await edit(api, AdvertiseRoutes=[FOREIGN])
        await refresh(api)
        assert await prefs(api) == before


async def stopped_and_started_again(environment: Environment) -> None:
    async with member(environment) as api, heard(api) as notices:
        who = (await status(api)).me
        await edit(api, WantRunning=False)
        seen = await until(api, lambda seen: seen.state == "Stopped")
        assert seen.has_node_key
        assert not seen.me.online
        await edit(api, WantRunning=True)
        seen = await until(api, lambda seen: seen.running and seen.me.online)
        assert (seen.me.key, seen.me.addresses) == (who.key, who.addresses)
        assert not any(each.error or each.reconnected for each in notices)


async def stopped_tailscaled_is_unreachable_and_comes_back_as_it_was(environment: Environment) -> None:
    async with member(environment) as api, heard(api) as notices:
        await edit(api, AdvertiseRoutes=[FOREIGN])
        before = await prefs(api)
        for end, words in ((environment.stop, "does not exist"), (environment.kill, "nobody listens")):
            notices.clear()
            await end()
            for gone in (await api.status(), await api.edit({"ShieldsUp": True}), await api.start()):
                assert isinstance(gone, Refusal)
                assert gone.code == Trouble.TAILSCALED_UNREACHABLE
                assert words in gone.msg
                assert str(environment.socket) in gone.msg
            assert not any(each.reconnected for each in notices)
            await environment.start()
            await eventually(lambda: any(each.reconnected for each in notices))
            await until(api, lambda seen: seen.running and seen.me.online)
            assert await prefs(api) == before


async def lost_control_shows_in_one_place(environment: Environment) -> None:
    async with member(environment) as api:
        health = (await status(api)).health
        await environment.lose_control()
        seen = await until(api, lambda seen: not seen.me.online)
        assert seen.running
        assert seen.health == health
        await environment.regain_control()
        await until(api, lambda seen: seen.me.online)


async def an_expired_key(environment: Environment) -> None:
    async with member(environment) as api:
        before = (await status(api)).me
        await environment.expire()
        seen = await until(api, lambda seen: seen.state == "NeedsLogin" and seen.me.expired)
        assert seen.has_node_key
        assert seen.me.key_expiry
        assert (await prefs(api)).want_running
        assert await api.start() is None
        seen = await until(api, lambda seen: bool(seen.auth_url))
        assert seen.state == "NeedsLogin"
        after = (await join(api, environment)).me
        assert (after.id, after.addresses) == (before.id, before.addresses)
        assert after.key != before.key
        assert not after.expired


async def a_deleted_node_learns_it_by_a_refresh(environment: Environment) -> None:
    async with member(environment) as api:
        before = (await status(api)).me
        await environment.delete()
        seen = await status(api)
        assert seen.running
        assert not seen.auth_url
        assert await api.start() is None
        seen = await until(api, lambda seen: bool(seen.auth_url))
        assert seen.running
        assert not seen.me.online
        after = (await join(api, environment)).me
        assert after.id != before.id
        assert after.key != before.key


async def refresh(api: LocalApi) -> None:
    assert await api.start() is None
    await until(api, lambda seen: seen.running and seen.me.online)


async def settled(environment: Environment, notices: list[Notice]) -> None:
    """What a refresh or an edit makes the control server say of this node comes in several lines."""
    while notices:
        notices.clear()
        await asyncio.sleep(environment.quiet)


CHECKS = (
    a_node_that_never_joined,
    a_bad_key_is_told_on_the_bus_and_a_good_one_still_joins,
    joining_sets_all_preferences,
    an_edit_changes_what_it_names_and_nothing_else,
    an_unknown_preference_is_passed_over,
    bad_routes_are_refused_and_change_nothing,
    a_list_said_to_be_set_and_not_there_is_wiped,
    an_edit_is_heard,
    an_approval_and_its_loss_are_heard_and_certain_after_a_refresh,
    a_refresh_keeps_preferences_and_state,
    stopped_and_started_again,
    stopped_tailscaled_is_unreachable_and_comes_back_as_it_was,
    lost_control_shows_in_one_place,
    an_expired_key,
    a_deleted_node_learns_it_by_a_refresh,
)
