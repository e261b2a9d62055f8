"""Which way is taken, when another one is tried, and what is published: with a clock that only rests move."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from cni.spec import Refusal
from fixtures.fakes import VirtualLoop
from reconciler.kube.candidates import Candidate, Origin
from reconciler.kube.codes import Trouble
from reconciler.kube.finder import SEARCH, SHORTEST, Finder, Means
from reconciler.kube.patience import LATER, LONG, SOON
from reconciler.kube.ports import HttpRefusal

BEST, SECOND, LAST = (Candidate(Origin.URL, None, f"https://192.0.2.{last}") for last in (1, 2, 3))
DOWN = Refusal(Trouble.API_UNREACHABLE, "down", "wait")
FORBIDDEN = Refusal(Trouble.API_FORBIDDEN, "may not", "grant it")


class Api:
    def __init__(self, candidate):
        self.endpoint, self.closed, self.begun_anew = candidate.url, False, 0

    def begin_anew(self):
        self.begun_anew += 1

    async def close(self):
        self.closed = True


class World:
    """`works` are the candidates that do. `script` is what happens at each rest, in its order; then it is over."""

    def __init__(self, *works, listed=(BEST, SECOND, LAST), script=()):
        self.works, self.listed, self.script = set(works), list(listed), list(script)
        self.tried, self.published, self.rests, self.dialled, self.checked = [], [], [], [], []
        self.unable, self.forbidden, self.down = set(), set(), DOWN
        self.clock = 0.0
        self.over = asyncio.Event()
        means = Means(self.candidates, self.dial, self.check, self.published.append)
        self.finder = Finder(means, lambda: self.clock, lambda: 1000.0 + self.clock, self.sleep, lambda: 1.0)

    async def candidates(self):
        return tuple(self.listed)

    async def dial(self, candidate):
        self.tried.append(candidate)
        if candidate in self.unable:
            return Refusal(Trouble.API_KUBECONFIG, "no file", "write it")
        self.dialled.append(Api(candidate))
        self.dialled[-1].candidate = candidate
        return self.dialled[-1]

    async def check(self, api):
        self.checked.append(self.clock)
        if api.candidate in self.forbidden:
            return FORBIDDEN
        return None if api.candidate in self.works else self.down

    async def sleep(self, seconds):
        self.rests.append(seconds)
        self.clock += seconds
        if seconds == SHORTEST and self.finder.reaching.endpoint is not None:
            return  # what lies between any two looks
        if not self.script:
            self.over.set()
            await asyncio.Event().wait()
        step = self.script.pop(0)
        if step is not None:
            step(self)


def run(make):
    async def play():
        world = make()
        task = asyncio.create_task(world.finder.run())
        async with asyncio.timeout(5):
            await world.over.wait()
        task.cancel()
        await asyncio.wait([task])
        return world

    return asyncio.run(play())


def endpoints(world):
    return [each.endpoint for each in world.published]


def test_the_first_that_works_is_taken_and_what_was_tried_before_is_told():
    world = run(lambda: World(SECOND, LAST))
    assert world.tried == [BEST, SECOND]
    (reaching,) = world.published
    assert reaching.endpoint == SECOND.url
    assert [(each.candidate, each.refusal) for each in reaching.tried] == [(BEST, DOWN), (SECOND, None)]
    assert reaching.refusal is None


def test_what_does_not_work_is_closed_and_what_does_is_closed_at_the_end():
    world = run(lambda: World(SECOND))
    assert all(each.closed for each in world.dialled)
    assert len(world.dialled) == 2


def test_a_candidate_that_grants_nothing_is_passed_over():
    def make():
        world = World(BEST, SECOND)
        world.forbidden.add(BEST)
        return world

    world = run(make)
    assert endpoints(world) == [SECOND.url]
    assert world.published[0].tried[0].refusal == FORBIDDEN


def test_a_candidate_that_cannot_be_opened_is_passed_over():
    def make():
        world = World(SECOND)
        world.unable.add(BEST)
        return world

    assert run(make).published[0].tried[0].refusal.code == Trouble.API_KUBECONFIG


def test_without_any_candidate_it_says_so():
    world = run(lambda: World(listed=()))
    (reaching,) = world.published
    assert reaching.endpoint is None
    assert "no way to an API server is known" in reaching.refusal.msg
    assert "/etc/kubernetes/kubelet.conf" in reaching.refusal.msg


def test_while_there_is_none_the_best_one_s_refusal_counts_and_rests_grow_to_a_bound():
    world = run(lambda: World(script=[None] * 5))
    assert world.finder.reaching.refusal == DOWN
    assert endpoints(world) == [None]
    assert world.rests == [0.5, 1.0, 2.0, SOON, SOON, SOON]
    assert world.tried == [BEST, SECOND, LAST] * 6


def test_what_is_away_for_long_is_asked_for_more_seldom_until_it_was_there():
    def up(world):
        world.works.add(BEST)

    def down(world):
        world.works.clear()

    soon = 2 + int(LONG / SOON)
    world = run(lambda: World(script=[*[None] * (soon + 9), up, down, None]))
    assert set(world.rests[3:soon]) == {SOON}
    assert sum(world.rests[: soon + 1]) >= LONG
    assert set(world.rests[soon + 1 : soon + 10]) == {LATER[1]}
    assert world.rests[-2:] == [0.5, 1.0]


def test_a_server_that_wants_to_be_asked_later_is():
    def make():
        world = World()
        world.down = HttpRefusal(Trouble.API_ANSWER, "503", "wait", status=503, retry_after=20.0)
        return world

    assert run(make).rests == [20.5]


def test_it_is_found_as_soon_as_it_comes_up():
    world = run(lambda: World(script=[None, lambda world: world.works.add(SECOND)]))
    assert endpoints(world) == [None, SECOND.url]
    assert world.published[-1].since == 1000.0 + 0.5 + 1.0


def test_the_way_in_use_and_better_ones_are_looked_at_now_and_then():
    world = run(lambda: World(SECOND, script=[None]))
    assert world.tried == [BEST, SECOND, BEST]
    assert world.checked == [0.0, 0.0, SEARCH[1], SEARCH[1]]
    assert endpoints(world) == [SECOND.url]


def test_at_rest_it_asks_one_question_a_minute():
    world = run(lambda: World(BEST, script=[None] * 100))
    assert 50 <= len(world.checked) / world.clock * 3600 <= 75


def test_a_better_one_is_returned_to_and_the_other_closed():
    world = run(lambda: World(LAST, script=[lambda world: world.works.add(BEST), None]))
    assert endpoints(world) == [LAST.url, BEST.url]
    assert [each.closed for each in world.dialled if each.candidate == LAST] == [True]


def test_a_worse_one_is_not_tried_while_a_better_one_works():
    world = run(lambda: World(BEST, SECOND, script=[None] * 3))
    assert world.tried == [BEST]


def test_when_it_fails_the_next_is_taken_at_once():
    world = run(lambda: World(BEST, SECOND, script=[lambda world: world.works.discard(BEST), None]))
    assert endpoints(world) == [BEST.url, SECOND.url]


def test_one_that_fails_is_kept_while_there_is_no_other_so_that_its_watches_go_on():
    def down(world):
        world.works.clear()

    def up(world):
        world.works.add(BEST)

    world = run(lambda: World(BEST, script=[None, down, up, None]))
    assert endpoints(world) == [BEST.url, None, BEST.url]
    assert [each.candidate for each in world.dialled] == [BEST, SECOND, LAST]
    assert [each.begun_anew for each in world.dialled] == [1, 0, 0]


def test_a_candidate_that_is_not_one_any_more_is_left():
    world = run(lambda: World(BEST, SECOND, script=[lambda world: world.listed.remove(BEST), None]))
    assert endpoints(world) == [BEST.url, SECOND.url]


def looks(*doubts, until):
    """When it looked at a way that works. `doubts`: what failed by a candidate each half second, from when to when."""

    async def play():
        world, clock, seen = World(BEST), asyncio.get_running_loop().time, []

        async def check(api):
            seen.append(clock())

        means = Means(world.candidates, world.dial, check, world.published.append)
        finder = Finder(means, clock, clock, draw=lambda: 1.0)
        task = asyncio.create_task(finder.run())
        await finder.api()
        while clock() < until:
            for candidate, begin, end in doubts:
                if begin <= clock() < end:
                    finder.doubt(candidate)
            await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.wait([task])
        return seen

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(play())


def test_a_doubt_is_looked_into_without_delay_but_not_in_a_hurry():
    """The long rest is cut short by it; the short one is kept."""
    assert looks((BEST, 0.0, 0.1), until=60) == [0.0, SHORTEST]
    assert looks((BEST, 30.0, 30.1), until=60) == [0.0, 30.0]


def test_doubts_that_were_none_are_looked_into_ever_more_seldom():
    seen = looks((BEST, 0.0, 700.0), until=700)
    rests = [later - earlier for earlier, later in pairwise(seen)]
    assert rests[:5] == [1.0, 1.0, 1.0, 2.0, SOON]
    assert max(rests[:100]) == SOON
    assert rests[-1] == LATER[1]


def test_after_a_while_without_doubts_the_next_one_is_as_good_as_the_first():
    seen = looks((BEST, 0.0, 40.0), (BEST, 180.0, 185.0), until=185)
    assert [each for each in seen if each >= 180] == [180.0, 181.0, 182.0, 184.0]


def test_what_fails_by_another_way_puts_no_doubt_on_the_one_in_use():
    assert looks((SECOND, 0.0, 50.0), until=60) == [0.0]


def test_who_asks_for_an_api_waits_until_there_is_one():
    async def play():
        world = World(script=[None, lambda world: world.works.add(LAST)])
        waiting = asyncio.create_task(world.finder.api())
        task = asyncio.create_task(world.finder.run())
        async with asyncio.timeout(5):
            api = await waiting
        task.cancel()
        await asyncio.wait([task])
        return api

    assert asyncio.run(play()).endpoint == LAST.url


def test_after_a_fault_it_may_be_run_again():
    async def play():
        world = World(BEST)
        task = asyncio.create_task(world.finder.run())
        first = await world.finder.api()
        task.cancel()
        await asyncio.wait([task])
        again = asyncio.create_task(world.finder.run())
        async with asyncio.timeout(5):
            second = await world.finder.api()
        again.cancel()
        await asyncio.wait([again])
        return first, second

    first, second = asyncio.run(play())
    assert first is not second
    assert first.closed
