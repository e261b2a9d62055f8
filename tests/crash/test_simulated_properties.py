"""Random lives of a node: whatever the order of calls, kills, restarts, reboots and full disks, once quiet the kernel,
the files and the ledger hold what the live records say, and what the runtime was told is true.

The runtime's own knowledge is the model: which attachments it was told exist, and with which address.
"""

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cni.spec import Code, Refusal
from fixtures.simulation import Node

PODS = [f"pod{i}" for i in range(5)]
pods = st.sampled_from(PODS)
kill_after = st.one_of(st.none(), st.integers(0, 12))
SMALL_POOL = "10.244.1.0/29"  # five addresses for five pods: it is empty at times


class LifeOfANode(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        memory = Path("/dev/shm")  # thousands of small files
        self.root = Path(tempfile.mkdtemp(prefix="headcni-life-", dir=memory if memory.is_dir() else None))
        self.node = Node(self.root, SMALL_POOL)
        self.promised: dict[str, list[str]] = {}  # container -> addresses the runtime was told
        self.waiting: list[tuple[str, str, str]] = []  # (verb, container, stem) not answered yet

    def teardown(self):
        self.node.stop()
        shutil.rmtree(self.root)

    def _ask(self, verb, pod, **more):
        self.waiting.append((verb, pod, self.node.ask(verb, pod, **more)))

    def _live(self, kill):
        self.node.fuse.reset(kill)
        survived = self.node.live()
        self.node.fuse.reset()
        if not survived:
            self.node.start()
        self._read_answers()

    def _read_answers(self):
        for verb, pod, stem in list(self.waiting):
            answer = self.node.answer(stem)
            if answer is None:
                continue
            self.waiting.remove((verb, pod, stem))
            if verb == "ADD" and answer.ok:
                assert self.promised.get(pod, answer.addresses) == answer.addresses, "two answers to one attachment"
                self.promised[pod] = answer.addresses
            elif verb == "DEL":
                assert answer.ok, "a delete never fails"

    # --- what may happen

    @rule(pod=pods, kill=kill_after)
    def add(self, pod, kill):
        if f"/ns/{pod}" not in self.node.kernel.namespaces:
            self.node.kernel.make_namespace(f"/ns/{pod}")
        self._ask("ADD", pod)
        self._live(kill)

    @rule(pod=pods, kill=kill_after, empty=st.booleans())
    def delete(self, pod, kill, empty):
        self.promised.pop(pod, None)
        self._ask("DEL", pod, empty=empty)
        self._live(kill)

    @rule(some=st.lists(st.tuples(st.sampled_from(["ADD", "DEL"]), pods), min_size=2, max_size=6), kill=kill_after)
    def many_at_once(self, some, kill):
        for verb, pod in some:
            if verb == "DEL":
                self.promised.pop(pod, None)
            elif f"/ns/{pod}" not in self.node.kernel.namespaces:
                self.node.kernel.make_namespace(f"/ns/{pod}")
        touched = {pod for _, pod in some}
        for verb, pod in some:
            self._ask(verb, pod)
        self.node.fuse.reset(kill)
        survived = self.node.live()
        self.node.fuse.reset()
        if not survived:
            self.node.start()
            self.node.live()
        self.waiting = [each for each in self.waiting if each[1] not in touched]
        for pod in touched:  # the runtime asks again what became of each: the last word counts
            record = self.node.on_disk().get(f"{pod}@eth0")
            if record is not None and record.answered:
                self.promised[pod] = [each.address for each in record.addresses]
            else:
                self.promised.pop(pod, None)

    @rule(pod=pods)
    def check(self, pod):
        self.node.live()
        answer = self.node.call("CHECK", pod)
        assert answer.ok == (pod in self.promised), answer

    @rule(keep=st.sets(pods), kill=kill_after)
    def collect_garbage(self, keep, kill):
        valid = [{"containerID": pod, "ifname": "eth0"} for pod in keep]
        self._ask("GC", "gc", **{"cni.dev/valid-attachments": valid})
        self.promised = {pod: each for pod, each in self.promised.items() if pod in keep}
        self._live(kill)

    @rule(pod=pods)
    def namespace_vanishes(self, pod):
        self.node.live()
        self.node.kernel.drop_namespace(f"/ns/{pod}")
        self.promised.pop(pod, None)
        self.node.audit()

    @rule(pod=pods)
    def somebody_deletes_the_link(self, pod):
        self.node.live()
        record = self.node.on_disk().get(f"{pod}@eth0")
        if record is not None and record.link is not None:
            self.node.kernel.links.pop(record.link.host, None)
            self.node.audit()

    @rule(times=st.integers(1, 3))
    def the_kernel_is_busy(self, times):
        self.node.kernel.refuse = [Refusal(Code.KERNEL_REFUSED, "busy")] * times

    @rule()
    def restart(self):
        self.node.start()

    @rule()
    def reboot(self):
        self.promised.clear()
        self.waiting = [each for each in self.waiting if each[0] == "DEL"]
        self.node.reboot()

    @rule(jump=st.floats(-1e7, 1e7))
    def the_wall_clock_jumps(self, jump):
        self.node.clock.wall_offset += jump

    @rule(pod=pods)
    @precondition(lambda self: self.promised)
    def the_disk_is_full(self, pod):
        self.node.live()
        self.node.store.full = True
        self.promised.pop(pod, None)
        assert self.node.call("DEL", pod).ok
        self.node.store.full = False

    # --- what always holds once quiet

    @invariant()
    def quiet_is_consistent(self):
        assert self.node.live()
        self._read_answers()
        assert self.node.wrongs() == []
        recorded = {
            record.container: [each.address for each in record.addresses]
            for record in self.node.on_disk().values()
            if record.answered
        }
        for pod, addresses in self.promised.items():
            assert recorded.get(pod) == addresses, (
                f"{pod} was promised {addresses}, the record says {recorded.get(pod)}"
            )


LifeOfANode.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
TestLifeOfANode = LifeOfANode.TestCase
