"""A daemon's status and records around the real `KubeSide`, with an API that is a dictionary, in virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from cni.spec import Refusal
from fixtures.fakes import VirtualClock, VirtualLoop
from fixtures.kube.fake_api import FakeApi
from reconciler.kube.candidates import Candidate, Origin
from reconciler.kube.codes import Trouble
from reconciler.kube.finder import Attempt, Reaching
from reconciler.kube.garbage import RuntimeList
from reconciler.kube.others import NODES
from reconciler.kube.side import KubeSide, Needs
from reconciler.node.clash import Others
from reconciler.operate.status import NotReady
from reconciler.settings import Network
from statemachine.attachment import State
from tests.kube import samples
from tests.pure.samples import STATUS, in_state

SOON = 5.0  # within which the Node must be right after each change
AWAY = Refusal(Trouble.API_UNREACHABLE, "connection refused", "start it")
READY = replace(STATUS, ready=True, not_ready=(), mesh={"mode": "none", "static_routes": []})
FULL = replace(READY, ready=False, not_ready=(NotReady("pool 10.244.1.0/24 is empty", "delete pods"),))
RECORD = in_state(State.ADVERTISED)
POD = samples.pod("web-0", uid=RECORD.pod.uid, address="10.244.1.7")
WAY = Candidate(Origin.URL, url="https://192.0.2.1:6443")
POD_PATH = "/api/v1/namespaces/default/pods/web-0"
EVENTS = "/api/v1/namespaces/default/events/"


class Api(FakeApi):
    """And it lists its Nodes, in one page; `listed` has the times at which somebody asked."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock
        self.listed: list[float] = []

    async def get(self, path, query=None):
        if path != NODES:
            return await super().get(path, query)
        self.listed.append(self.clock.now())
        return await self._serve("list", path, query, self._nodes)

    def _nodes(self):
        return {"metadata": {}, "items": [each for path, each in self.objects.items() if path.startswith(NODES)]}


class Finder:
    def __init__(self):
        self.found: FakeApi | None = None
        self.there = asyncio.Event()

    def use(self, api):
        self.found = api
        self.there.set()

    async def api(self):
        await self.there.wait()
        return self.found


class Site:
    """A daemon's status and records around the real side."""

    def __init__(self, loop):
        self.clock = VirtualClock()
        self.clock.loop = loop
        self.finder, self.api = Finder(), Api(self.clock)
        self.status = READY
        self.records = {RECORD.key: RECORD}
        self.alive: bool | None = True
        self.lists: dict[str, RuntimeList] = {}
        self.posted: list[tuple[str, object]] = []
        self.busy: set[str] = set()
        self.changes = 0
        self.warned: list[str] = []
        self.given: list[tuple[Network, ...]] = []
        self.settled = True
        self.learned: list[Others] = []
        self.side = KubeSide("worker-1", self.clock, self._needs())
        self.api.put(samples.NODE, samples.node(taints=[samples.NOT_READY_TAINT]))
        self.api.put(POD_PATH, POD)

    def _needs(self):
        return Needs(
            status=lambda: self.status,
            records=lambda: self.records,
            idle=lambda key: key not in self.busy,
            namespace_alive=lambda record: self.alive,
            runtime_lists=lambda: self.lists,
            post=lambda key, event: self.posted.append((key, event)),
            keep=lambda record: self.records.__setitem__(record.key, record),
            changed=self._changed,
            warn=lambda key, text: self.warned.append(key),
            given=self.given.append,
            settled=lambda: self.settled,
            others=self.learned.append,
        )

    def _changed(self):
        self.changes += 1

    @property
    def told(self):
        """What the Node says of itself: the condition, its taints, the mesh."""
        raw = self.api.objects[samples.NODE]
        conditions = {each["type"]: each for each in raw["status"]["conditions"]}
        told = conditions.get("NetworkUnavailable", {})
        taints = [each["key"] for each in raw["spec"]["taints"]]
        return told.get("status"), told.get("reason"), taints, raw["metadata"]["annotations"].get("headcni.io/mesh")

    @property
    def events(self):
        found = (each for path, each in self.api.objects.items() if path.startswith(EVENTS))
        return [(each["type"], each["reason"]) for each in found]

    @property
    def summary(self):
        return self.side.summary()


def run(body):
    """`body(site)` beside the running side, which must not end by itself."""

    async def around():
        site = Site(asyncio.get_running_loop())
        running = asyncio.create_task(site.side.attend(site.finder))
        await asyncio.sleep(0)  # it has begun before any finder tells it something
        await body(site)
        assert not running.done()
        running.cancel()
        await asyncio.wait({running})

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(around())


async def connected(site):
    site.finder.use(site.api)
    site.side.reached(Reaching("fake", (Attempt(WAY),), site.clock.wall()))
    await asyncio.sleep(SOON)
