"""A busy node whose daemon is killed again and again: adds, deletes and repeats of twelve pods at once."""

import random
import time

import pytest

from fixtures.lab import Lab
from fixtures.site import Site, wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

PODS = [f"box{n}" for n in range(12)]
ROUNDS = 6


@pytest.fixture
def site(tmp_path):
    with Lab(1) as lab, Site(lab.nodes[0], tmp_path / "state", "--log-level", "error") as running:
        yield running


@pytest.mark.parametrize("seed", [1, 2])
def test_kills_at_any_time_lose_and_leak_nothing(site, seed):
    chance = random.Random(seed)
    empty = site.node.snapshot()
    answers = {}
    for name in PODS:
        site.pod(name)
    for _ in range(ROUNDS):
        verbs = {name: chance.choice(("ADD", "ADD", "DEL")) for name in PODS}
        calls = {name: site.start(verb, name) for name, verb in verbs.items()}
        for _ in range(2):
            time.sleep(chance.uniform(0.0, 0.15))
            site.restart()
        for name, call in calls.items():
            answer = call.wait()
            assert answer.code == 0, (name, verbs[name], answer, site.daemon.log_tail())
            again = answers.pop(name, None) if verbs[name] == "DEL" else answers.setdefault(name, answer.raw)
            assert verbs[name] == "DEL" or again == answer.raw, "an attachment was given two answers"
        wait_until(lambda: set(site.records()) == {f"{name}@eth0" for name in answers}, 10)
        site.wait_quiet()
        assert site.wrongs() == []
    for name in PODS:
        site.delete(name)
    wait_until(lambda: not site.records(), 10)
    assert site.wrongs() == []
    assert empty.difference(site.node.snapshot()) == ()
