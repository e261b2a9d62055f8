"""The daemon is killed before every single effect of every story, restarted, and must end as if nothing had happened.

Exhaustive where a process-level test can only sample: each file written or unlinked and each change of the kernel is
one kill point, and a second kill strikes during the recovery from the first.
"""

import shutil
import tempfile
from pathlib import Path

import pytest

from cni.result import Ip, Result
from cni.spec import Code, Refusal, Verb
from fixtures.simulation import Node


def add(node):
    node.kernel.make_namespace("/ns/pod1")
    return [node.ask("ADD", "pod1")]


def delete(node):
    assert node.add("pod1").ok
    return [node.ask("DEL", "pod1")]


def add_then_delete_at_once(node):
    node.kernel.make_namespace("/ns/pod1")
    return [node.ask("ADD", "pod1"), node.ask("DEL", "pod1")]


def delete_then_add_again(node):
    assert node.add("pod1").ok
    return [node.ask("DEL", "pod1"), node.ask("ADD", "pod1")]


def two_adds_of_one_attachment(node):
    node.kernel.make_namespace("/ns/pod1")
    return [node.ask("ADD", "pod1"), node.ask("ADD", "pod1")]


def collect_garbage(node):
    assert node.add("pod1").ok
    assert node.add("pod2").ok
    valid = [{"containerID": "pod2", "ifname": "eth0"}]
    return [node.ask("GC", **{"cni.dev/valid-attachments": valid})]


def address_only(node):
    return [node.ask("ADD", "pod1", plugin="headcni-ipam"), node.ask("DEL", "pod1", plugin="headcni-ipam")]


def wiring_that_fails_twice(node):
    node.kernel.make_namespace("/ns/pod1")
    node.kernel.refuse = [Refusal(Code.KERNEL_REFUSED, "busy")] * 2
    return [node.ask("ADD", "pod1")]


def wiring_refused_for_good(node):
    node.kernel.taken.add((node.kernel.make_namespace("/ns/pod1"), "eth0"))
    return [node.ask("ADD", "pod1")]


def delegated(node):
    node.delegate_answers[Verb.ADD] = Result(ips=(Ip("10.9.0.5/24", "10.9.0.1"),))
    node.kernel.make_namespace("/ns/pod1")
    conf = {"ipam": {"type": "host-local"}}
    return [node.ask("ADD", "pod1", **conf), node.ask("DEL", "pod1", **conf), node.ask("ADD", "pod1", **conf)]


STORIES = [
    add,
    delete,
    add_then_delete_at_once,
    delete_then_add_again,
    two_adds_of_one_attachment,
    collect_garbage,
    address_only,
    wiring_that_fails_twice,
    wiring_refused_for_good,
    delegated,
]


@pytest.fixture
def root():
    """In memory: thousands of small files, and not one of them is to outlive the test."""
    memory = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(prefix="headcni-", dir=memory if memory.is_dir() else None))
    yield made / "state"
    shutil.rmtree(made)


def tell(story, root, kills):
    """Runs the story with a kill after so many effects for each entry; None when the last kill never struck."""
    shutil.rmtree(root, ignore_errors=True)
    node = Node(root)
    stems = story(node)
    struck = True
    for left in kills:
        node.fuse.reset(left)
        struck = not node.live()
        node.start()
    assert node.live(), "killed without a fuse"
    outcome = summary(node, stems)
    node.stop()
    return outcome if struck else None


def summary(node, stems):
    assert node.wrongs() == []
    answers = [node.answer(stem) for stem in stems]
    return {
        "live": {key: record.state for key, record in node.on_disk().items()},
        "links": len(node.kernel.links),
        "answers": [answer and answer.code for answer in answers],
    }


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_every_kill_point_ends_like_no_kill(story, root, record_property):
    undisturbed = tell(story, root, [])
    assert None not in undisturbed["answers"]
    points = 0
    while (outcome := tell(story, root, [points])) is not None:
        assert outcome == undisturbed, f"killed at effect {points}"
        points += 1
    assert points >= 3
    record_property("kill_points", points)
    print(f"{story.__name__}: {points} kill points")


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_a_second_kill_during_recovery_changes_nothing(story, root):
    undisturbed = tell(story, root, [])
    assert None not in undisturbed["answers"]
    first = 0
    while tell(story, root, [first]) is not None:
        second = 0
        while (outcome := tell(story, root, [first, second])) is not None:
            assert outcome == undisturbed, f"killed at effect {first}, then at {second}"
            second += 1
        first += 1
