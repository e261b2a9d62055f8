"""The daemon is killed before each of its effects on tailscaled, on Headscale and on its record, and started again.

Whatever the instant: foreign routes are as they were, what stands in tailscaled's list or preferences by our doing is
in the record, and in the end there is exactly what is wanted. A second kill strikes during the recovery. Then the node
leaves, and nothing of ours is left.
"""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from cni.spec import Refusal
from fixtures.fakes import Killed
from fixtures.meshsim import FOREIGN, OWN, MeshSim, play, wired
from reconciler.mesh import record
from reconciler.mesh.leave import leave
from reconciler.mesh.preferences import REQUIRED

MOVED = ("10.244.77.0/24", "fd00:10:244:77::/64")
WRONG = {"RouteAll": False, "NoSNAT": False, "NoStatefulFiltering": False, "ShieldsUp": True, "CorpDNS": True}
PUT_BACK = [each.name for each in REQUIRED if each.put_back]


class Joining:
    """A node that never joined, whose preferences are tailscaled's own, and to which a person has given routes."""

    approval = "auto"
    wanted: tuple[str, ...] = OWN
    again: tuple[int | None, ...] = (None, 0, 1)  # effects between the first kill and the second
    stays: frozenset[str] = frozenset(
        {"CorpDNS"}
    )  # of a node that we joined: put back, it would take away the name servers

    async def prepare(self, sim: MeshSim) -> None:
        sim.node.prefs = {**sim.node.prefs, "AdvertiseRoutes": list(FOREIGN)}

    def begin(self, sim: MeshSim) -> None:
        sim.start()

    def mended(self, sim: MeshSim) -> bool:
        return True


class Preferring(Joining):
    """Joined by hand, with every preference as pods do not need it."""

    stays: frozenset[str] = frozenset()

    async def prepare(self, sim: MeshSim) -> None:
        sim.join(**WRONG)


class Approving(Joining):
    stays: frozenset[str] = frozenset()
    approval = "key"

    async def prepare(self, sim: MeshSim) -> None:
        sim.join()


class Moving(Joining):
    """The pod CIDRs change, with the daemon's restart."""

    wanted = MOVED

    async def prepare(self, sim: MeshSim) -> None:
        sim.join(**WRONG)
        sim.start()
        await sim.until_in_force()
        await sim.kill()

    def begin(self, sim: MeshSim) -> None:
        sim.start(**{"network.podCIDR.nodeLocal": ",".join(MOVED)})


class Withdrawing(Joining):
    """The last pod goes, where each is announced alone."""

    wanted = ()

    async def prepare(self, sim: MeshSim) -> None:
        pod = wired()
        sim.records = {pod.key: pod}
        sim.join(**WRONG)
        sim.start(**{"mesh.advertise": "pod"})
        await sim.until(lambda: sim.ours == {"10.244.1.7/32"})
        await sim.kill()

    def begin(self, sim: MeshSim) -> None:
        sim.records = {}
        sim.start()


class Toggling(Joining):
    """tailscaled's table has lost a route."""

    async def prepare(self, sim: MeshSim) -> None:
        sim.join()

    def begin(self, sim: MeshSim) -> None:
        sim.node.lost_routes = {"10.244.2.0/24"}
        sim.start()

    def mended(self, sim: MeshSim) -> bool:
        return not sim.node.lost_routes


class AnnouncingAgain(Joining):
    """Somebody took an approval back that the policy gives again with the next announcement."""

    again = (None,)

    async def prepare(self, sim: MeshSim) -> None:
        sim.join()
        sim.start()
        await sim.until_in_force()
        await sim.kill()

    def begin(self, sim: MeshSim) -> None:
        sim.node.disapprove(*OWN)
        sim.start()

    def mended(self, sim: MeshSim) -> bool:
        return set(sim.node.serving) == set(OWN)


STORIES = (Joining, Preferring, Approving, Moving, Withdrawing, Toggling, AnnouncingAgain)


def recorded(sim: MeshSim) -> record.MeshRecord:
    found = record.load(sim.store).record
    assert found is not None
    return found


def nothing_leaks(sim: MeshSim, before: dict[str, object]) -> None:
    """At the instant of a kill."""
    assert tuple(each for each in sim.announced if each in FOREIGN) == FOREIGN
    assert sim.ours <= {str(each) for each in recorded(sim).announced}
    changed = {name for name in PUT_BACK if name in before and sim.node.prefs[name] != before[name]}
    assert changed <= recorded(sim).prefs.keys()


def done(sim: MeshSim, story: Joining) -> bool:
    """All as wanted, and known to be so. The order of ours is none of anybody's business."""
    known = {str(each) for each in recorded(sim).announced}
    preferred = all(sim.node.prefs[each.name] == each.value for each in REQUIRED)
    whole = sim.in_force_of(map(ip_network, story.wanted)) and sim.node.state == "Running"
    return sim.ours == known == set(story.wanted) and preferred and whole and story.mended(sim)


async def gone(sim: MeshSim, before: dict[str, object]) -> None:
    await sim.kill()
    for said in await leave(sim.store, sim.tailscaled.socket):
        assert not isinstance(said, Refusal), said
    assert sim.announced == FOREIGN
    put_back = [name for name in PUT_BACK if name in before]
    assert {name: sim.node.prefs[name] for name in put_back} == {name: before[name] for name in put_back}
    assert not (sim.store.root / record.FILE).exists()


def effects_of(tmp_path, story: Joining) -> int:
    counted = []

    async def run(sim):
        await story.prepare(sim)
        sim.fuse.effects = 0
        story.begin(sim)
        await sim.until(lambda: done(sim, story), 60, "done")
        counted.append(sim.fuse.effects)

    play(tmp_path / "count", run, approval=story.approval)
    return counted[0]


@pytest.mark.parametrize("story", STORIES, ids=lambda each: each.__name__)
def test_a_kill_before_any_effect_leaves_nothing_behind(tmp_path, story, record_property):
    story = story()
    effects = effects_of(tmp_path, story)
    points = [(first, second) for first in range(effects) for second in story.again]

    def killed_at(first, second):
        async def run(sim):
            await story.prepare(sim)
            before = original(sim, story)
            sim.fuse.reset(first)
            story.begin(sim)
            await sim.until(lambda: sim.fuse.blown, 60, "killed")
            nothing_leaks(sim, before)
            if second is not None:
                await sim.revive(second)
                await sim.until(lambda: sim.fuse.blown or done(sim, story), 90, "killed again")
                nothing_leaks(sim, before)
            await sim.revive()
            await sim.until(lambda: done(sim, story), 90, "done")
            await gone(sim, before)

        play(tmp_path / f"{first} {second}", run, approval=story.approval)

    for point in points:
        killed_at(*point)
    record_property("kill_points", len(points))
    assert effects >= 2


def original(sim: MeshSim, story: Joining) -> dict[str, object]:
    """As they were before the daemon ever ran."""
    prefs = {**sim.node.prefs, **(WRONG if isinstance(story, Moving | Withdrawing) else {})}
    return {name: value for name, value in prefs.items() if name not in story.stays}


def test_a_kill_while_leaving_is_finished_by_leaving_again(tmp_path, record_property):
    points = 0

    def killed_at(left):
        async def run(sim):
            nonlocal points
            sim.join(**WRONG)
            before = dict(sim.node.prefs)
            sim.start()
            await sim.until_in_force()
            await sim.kill()
            sim.fuse.reset(left)
            try:
                await leave(sim.store, sim.tailscaled.socket)
            except Killed:
                points += 1
            nothing_leaks(sim, before)
            sim.fuse.reset()
            await gone(sim, before)

        before = points
        play(tmp_path / str(left), run)
        return points > before

    left = 0
    while killed_at(left):
        left += 1
    record_property("kill_points", points)
    assert points >= 4, "withdraw, forget, put back, remove the record"


def test_leaving_puts_back_what_was_before_the_first_change_and_not_what_somebody_set_since(tmp_path):
    async def story(sim):
        sim.join(**WRONG)
        sim.start()
        await sim.until_in_force()
        await sim.kill()
        sim.node.edit(ShieldsUp=True, CorpDNS=True)
        sim.node.edit(CorpDNS=False)
        await leave(sim.store, sim.tailscaled.socket)
        assert {name: sim.node.prefs[name] for name in WRONG} == WRONG
        assert sim.node.prefs["WantRunning"], "whoever uninstalls may be connected through it"

    play(tmp_path, story)
