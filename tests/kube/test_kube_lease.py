"""Leader election: whatever is slow, lost or killed, and however clocks are set, two never lead at the same time."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni.spec import Refusal
from fixtures.fakes import VirtualLoop
from fixtures.kube.fake_api import FakeApi
from reconciler.kube.codes import Trouble
from reconciler.kube.election import Election
from reconciler.kube.lease import (
    DURATION,
    RENEW,
    RETRY,
    Lease,
    Standing,
    given_back,
    lease_from,
    may_write,
    saw,
    won,
    written,
)

PATH = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/headcni-approver"


# --- the decision, in every order of things


@dataclass
class Server:
    raw: dict[str, Any] | None = None
    version: int = 0

    def write(self, body):
        """None: refused."""
        known = self.raw and self.raw["metadata"]["resourceVersion"]
        if body["metadata"].get("resourceVersion") != known:
            return None
        self.version += 1
        self.raw = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        return self.raw


@dataclass
class Contender:
    """Its requests go out, arrive and are answered one after the other, each when the test says so."""

    standing: Standing
    clock_ahead: float
    wall_ahead: float
    reading: Any = None  # what the server answered, on its way
    sent: float = 0.0
    body: Any = None  # on its way to the server
    answer: Any = None  # on its way back
    trail: list[str] = field(default_factory=list)

    def clock(self, now):
        return now + self.clock_ahead

    def step(self, what, server, now):
        clock = self.clock(now)
        if what == "read" and self.reading is None:
            self.reading = server.raw or "nothing"
        elif what == "hear" and self.reading is not None:
            if self.reading != "nothing":
                self.standing = saw(self.standing, lease_from(self.reading), clock)
            self.reading = None
        elif what == "send" and self.body is None and may_write(self.standing, clock):
            self.sent, self.body = clock, written(self.standing, "headcni-approver", now + self.wall_ahead)
        elif what == "land" and self.body is not None:
            self.answer, self.body = server.write(self.body), None
        elif what == "answer" and self.answer is not None:
            self.standing, self.answer = won(self.standing, lease_from(self.answer), self.sent), None
        elif what == "give back" and self.standing.leads(clock):
            lease = self.standing.lease
            self.standing = Standing(self.standing.me, lease)
            server.write(given_back(lease, "headcni-approver", now))
        elif what == "lose":
            self.answer = None
        elif what == "die":
            self.standing, self.reading, self.answer = Standing(self.standing.me + "'"), None, None


STEPS = ["read", "hear", "send", "land", "answer"]
steps = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.0, 2.0, 9.9, 14.9, 15.2, 15.2]),
        st.integers(0, 1),
        st.sampled_from(["turn"] * 6 + STEPS + ["lose", "die", "give back"]),
    ),
    min_size=20,
    max_size=60,
)


@settings(max_examples=300)
@given(steps, st.floats(-1e6, 1e6), st.floats(-1e9, 1e9))
def test_two_never_lead_at_the_same_time(steps, clock_ahead, wall_ahead):
    server, now = Server(), 1e7
    both = [Contender(Standing("a"), 0.0, 0.0), Contender(Standing("b"), clock_ahead, wall_ahead)]
    for pause, who, what in steps:
        now += pause
        for each in STEPS if what == "turn" else [what]:
            both[who].step(each, server, now)
            leading = [one.standing.me for one in both if one.standing.leads(one.clock(now))]
            assert len(leading) <= 1, leading


def test_who_holds_it_leads_for_ten_seconds_from_before_the_request():
    standing = won(Standing("a"), lease_from({"spec": {"holderIdentity": "a"}}), sent=100.0)
    assert standing.leads(100 + RENEW - 0.01)
    assert not standing.leads(100 + RENEW)


def held(holder="other", seconds=15.0, version="1"):
    return Lease(holder, seconds, 3, "t0", version)


def test_who_does_not_change_for_the_time_it_gave_itself_may_be_replaced():
    standing = saw(Standing("a"), held(seconds=40.0), 100.0)
    assert not may_write(saw(standing, held(seconds=40.0), 139.0), 139.0)
    assert may_write(saw(standing, held(seconds=40.0), 140.0), 140.0)


def test_a_renewal_is_a_sign_of_life_and_reading_the_same_again_is_none():
    standing = saw(Standing("a"), held(), 100.0)
    assert saw(standing, held(), 110.0).seen == 100.0
    assert saw(standing, held(version="2"), 110.0).seen == 110.0


def test_what_was_given_back_may_be_taken_at_once():
    body = given_back(held(holder="b"), "headcni-approver", 0.0)
    assert body["metadata"]["resourceVersion"] == "1"
    assert may_write(saw(Standing("a"), lease_from(body), 100.0), 100.0)


def test_who_sees_that_another_one_holds_it_leads_no_more():
    standing = won(Standing("a"), held(holder="a"), 100.0)
    assert not saw(standing, held(holder="b"), 101.0).leads(101.0)


def test_a_takeover_counts_as_a_transition_and_a_renewal_does_not():
    taken = written(saw(Standing("a"), held(), 0.0), "n", 0.0)["spec"]
    kept = written(saw(Standing("a"), held(holder="a"), 0.0), "n", 0.0)["spec"]
    first = written(Standing("a"), "n", 0.0)["spec"]
    assert (taken["leaseTransitions"], kept["leaseTransitions"], first["leaseTransitions"]) == (4, 3, 0)
    assert (taken["acquireTime"], kept["acquireTime"]) == ("1970-01-01T00:00:00.000000Z", "t0")


@pytest.mark.parametrize("spec", [None, {}, {"leaseDurationSeconds": 0}, {"leaseDurationSeconds": "x"}])
def test_a_lease_that_is_not_as_it_should_be_is_one_of_the_usual_duration(spec):
    assert lease_from({"spec": spec}).seconds == DURATION


# --- the loop


class Way:
    """One contender's way to the API, which may be cut, or hang."""

    def __init__(self, api):
        self.api = api
        self.cut = False
        self.hang = False

    def __getattr__(self, name):
        call = getattr(self.api, name)

        async def through(*arguments):
            if self.hang:
                await asyncio.Event().wait()
            if self.cut:
                return Refusal(Trouble.API_UNREACHABLE, "no way", "")
            return await call(*arguments)

        return through


class World:
    def __init__(self):
        self.api = FakeApi()
        self.working: list[str] = []
        self.log: list[tuple[float, str, str]] = []

    def now(self):
        return asyncio.get_running_loop().time()

    def contender(self, name):
        way = Way(self.api)

        async def api():
            return way

        async def work():
            assert not self.working, f"{name} works beside {self.working}"
            self.working.append(name)
            self.log.append((self.now(), name, "begins"))
            try:
                await asyncio.Event().wait()
            finally:
                self.working.remove(name)
                self.log.append((self.now(), name, "ends"))

        wall = lambda: 1e9  # noqa: E731  # it stands: nothing may depend on it
        election = Election(api, "kube-system", "headcni-approver", name, self.now, wall, lambda: 0.5)
        return way, election, asyncio.create_task(election.run(work))


def live(body):
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(body)


async def ended(task):
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def test_the_first_one_leads_and_renews_and_the_second_waits():
    async def body():
        world = World()
        _, first, one = world.contender("a")
        await asyncio.sleep(1)
        _, second, two = world.contender("b")
        await asyncio.sleep(120)
        assert world.working == ["a"]
        assert first.leads
        assert not second.leads
        spec = world.api.objects[PATH]["spec"]
        assert spec["holderIdentity"] == "a"
        assert spec["leaseTransitions"] == 0
        renewals = len(world.api.asked("replace"))
        assert 120 / (RETRY * 1.2) - 2 <= renewals <= 120 / RETRY + 1
        await ended(two)
        await ended(one)

    live(body())


def test_who_is_killed_is_replaced_and_only_after_its_time():
    async def body():
        world = World()
        way, _, one = world.contender("a")
        await asyncio.sleep(1)
        _, _, two = world.contender("b")
        await asyncio.sleep(30)
        killed = world.now()
        way.hang = True  # a process that is no more answers nobody; its work is stopped by its own clock
        await asyncio.sleep(RENEW)
        assert world.working == []
        await asyncio.sleep(DURATION - RENEW + 2 * RETRY * 1.2)
        assert world.working == ["b"]
        taken = next(at for at, who, what in world.log if (who, what) == ("b", "begins"))
        assert killed + DURATION - RETRY * 1.2 <= taken
        assert world.api.objects[PATH]["spec"]["leaseTransitions"] == 1
        await ended(two)
        await ended(one)

    live(body())


def test_who_stops_ends_its_work_first_and_then_gives_the_lease_back():
    async def body():
        world = World()
        _, _, one = world.contender("a")
        await asyncio.sleep(1)
        _, _, two = world.contender("b")
        await asyncio.sleep(10)
        stopped = world.now()
        await ended(one)
        assert world.working == []
        assert world.api.objects[PATH]["spec"]["holderIdentity"] == ""
        await asyncio.sleep(RETRY * 1.2)
        assert world.working == ["b"]
        assert world.log[-1][0] - stopped <= RETRY * 1.2
        await ended(two)
        assert world.api.objects[PATH]["spec"]["holderIdentity"] == ""

    live(body())


@pytest.mark.parametrize("how", ["cut", "hang"])
def test_who_cannot_renew_stops_in_time_and_leads_again_when_it_can(how):
    async def body():
        world = World()
        way, election, one = world.contender("a")
        await asyncio.sleep(20)
        setattr(way, how, True)
        lost_at = world.now()
        await asyncio.sleep(RENEW)
        assert world.working == []
        assert not election.leads
        assert RENEW - RETRY * 1.2 <= world.log[-1][0] - lost_at <= RENEW
        setattr(way, how, False)
        await asyncio.sleep(RENEW + 2 * RETRY * 1.2)
        assert world.working == ["a"]
        assert election.trouble is None
        await ended(one)

    live(body())


def test_a_lease_that_somebody_deleted_is_made_again():
    async def body():
        world = World()
        _, _, one = world.contender("a")
        await asyncio.sleep(10)
        world.api.drop(PATH)
        await asyncio.sleep(3 * RETRY)
        assert world.api.objects[PATH]["spec"]["holderIdentity"] == "a"
        assert world.working == ["a"]
        assert [what for _, _, what in world.log] == ["begins"]
        await ended(one)

    live(body())


def test_a_fault_of_the_work_goes_up_and_the_lease_is_given_back():
    async def body():
        world = World()

        async def api():
            return world.api

        async def work():
            raise ValueError("broken")

        with pytest.raises(ValueError, match="broken"):
            await Election(api, "kube-system", "headcni-approver", "a", clock=world.now).run(work)
        assert world.api.objects[PATH]["spec"]["holderIdentity"] == ""

    live(body())


def test_without_permission_nobody_leads_and_it_is_known_why():
    async def body():
        world = World()
        forbidden = Refusal(Trouble.API_FORBIDDEN, "leases are forbidden", "grant it")
        world.api.refuse = lambda verb, path: forbidden
        _, election, one = world.contender("a")
        await asyncio.sleep(30)
        assert world.working == []
        assert election.trouble == forbidden
        world.api.refuse = lambda verb, path: None
        await asyncio.sleep(RETRY * 1.2)
        assert world.working == ["a"]
        assert election.trouble is None
        await ended(one)

    live(body())
