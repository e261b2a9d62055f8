import shutil
from pathlib import Path

import orjson
import pytest

from reconciler.node import sysctl
from reconciler.node.sysctl import FORWARD4, FORWARD6, Sysctls, dotted, plan
from reconciler.node.wish import Problem

TREE = {
    "kernel/random/boot_id": "boot-one",
    FORWARD4: "0",
    "net/ipv4/conf/all/accept_redirects": "1",
    "net/ipv4/conf/all/forwarding": "0",
    "net/ipv4/conf/eth0/forwarding": "0",
    "net/ipv4/conf/eth1/forwarding": "1",
    FORWARD6: "0",
    "net/ipv6/conf/eth0/forwarding": "0",
    "net/ipv6/conf/all/accept_ra": "1",
    "net/ipv6/conf/default/accept_ra": "1",
    "net/ipv6/conf/eth0/accept_ra": "1",
    "net/ipv6/conf/eth1/accept_ra": "0",
    "net/ipv6/conf/hc0a1b2/accept_ra": "1",
}


class Tree:
    """A /proc/sys of plain files, and a state directory beside it."""

    def __init__(self, root: Path) -> None:
        self.root, self.state = root / "sys", root / "state"
        self.state.mkdir()
        for key, value in TREE.items():
            (self.root / key).parent.mkdir(parents=True, exist_ok=True)
            self[key] = value

    def __getitem__(self, key: str) -> str:
        return (self.root / key).read_text()

    def __setitem__(self, key: str, value: str) -> None:
        (self.root / key).write_text(value)

    def sysctls(self) -> Sysctls:
        """As a new process sees it."""
        return Sysctls(self.state, self.root)

    def record(self) -> dict:
        return orjson.loads((self.state / "host.json").read_bytes())["sysctls"]


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def test_forwarding_that_is_on_needs_nothing():
    assert not plan({FORWARD4: "1", FORWARD6: "1", "net/ipv6/conf/eth0/accept_ra": "1"}, ipv6=True).writes


def test_ipv6_is_left_alone_where_it_is_not_asked_for():
    assert list(plan(TREE, ipv6=False).writes) == [FORWARD4]


def test_router_advertisements_are_kept_before_forwarding_would_end_them():
    writes = plan(TREE, ipv6=True).writes
    assert list(writes)[1:] == ["net/ipv6/conf/eth0/accept_ra", FORWARD6]
    assert writes["net/ipv6/conf/eth0/accept_ra"] == "2"


def test_router_advertisements_that_forwarding_had_ended_already_stay_so():
    before = {**TREE, FORWARD6: "1"}
    assert "net/ipv6/conf/eth0/accept_ra" not in plan(before, ipv6=True).writes


def test_the_record_holds_also_what_the_kernel_copies(tree):
    tree.sysctls().prepare(ipv6=False)
    assert tree.record() == {
        FORWARD4: {"original": "0", "ours": "1"},
        "net/ipv4/conf/eth0/forwarding": {"original": "0", "ours": "1"},
        "net/ipv4/conf/eth1/forwarding": {"original": "1", "ours": "1"},
        "net/ipv4/conf/all/accept_redirects": {"original": "1", "ours": "0"},
    }


def test_a_second_run_keeps_the_original(tree):
    tree.sysctls().prepare(ipv6=False)
    tree[FORWARD4] = "0"  # somebody's sysctl -p
    assert tree.sysctls().prepare(ipv6=True)
    assert tree.record()[FORWARD4]["original"] == "0"
    assert tree.sysctls().prepare(ipv6=True) == ()


def test_the_original_is_on_disk_before_the_change(tree, monkeypatch):
    monkeypatch.setattr(Sysctls, "_write", lambda *_: pytest.fail("killed here"))
    with pytest.raises(pytest.fail.Exception):
        tree.sysctls().prepare(ipv6=True)
    assert tree.record()[FORWARD6]["original"] == tree[FORWARD6] == "0"
    monkeypatch.undo()
    tree.sysctls().prepare(ipv6=True)
    assert tree.record()[FORWARD6]["original"] == "0"
    tree.sysctls().restore()
    assert tree[FORWARD6] == "0"


def test_restore_puts_back_everything_and_forgets(tree):
    tree.sysctls().prepare(ipv6=True)
    assert "net.ipv4.ip_forward: 1 -> 0" in tree.sysctls().restore()
    assert {key: tree[key] for key in TREE} == TREE
    assert tree.sysctls().restore() == ()
    assert not (tree.state / "host.json").exists()


def test_restore_leaves_what_somebody_changed_since(tree):
    tree.sysctls().prepare(ipv6=True)
    tree["net/ipv6/conf/eth0/accept_ra"] = "0"
    done = tree.sysctls().restore()
    assert tree["net/ipv6/conf/eth0/accept_ra"] == "0"
    assert "left net.ipv6.conf.eth0.accept_ra at 0: somebody changed it (we had set 2, before us it was 1)" in done


def test_restore_passes_over_an_interface_that_is_gone(tree):
    tree.sysctls().prepare(ipv6=True)
    (tree.root / "net/ipv6/conf/eth0/accept_ra").unlink()
    tree.sysctls().restore()
    assert tree[FORWARD6] == "0"


def test_a_record_of_another_boot_is_void(tree):
    tree.sysctls().prepare(ipv6=False)
    tree["kernel/random/boot_id"] = "boot-two"
    assert tree.sysctls().restore() == ()
    assert tree[FORWARD4] == "1"


def test_a_damaged_record_is_put_aside_and_stops_nothing(tree):
    (tree.state / "host.json").write_bytes(b'{"format": "headcni/ho')
    assert tree.sysctls().prepare(ipv6=False)
    assert (tree.state / "quarantine/host.json").exists()
    assert tree.record()[FORWARD4]["original"] == "0"


def test_a_record_of_a_newer_program_is_left_alone_and_nothing_is_changed(tree):
    newer = b'{"format": "headcni/host/2"}'
    (tree.state / "host.json").write_bytes(newer)
    sysctls = tree.sysctls()
    assert sysctls.prepare(ipv6=False) == ()
    assert tree[FORWARD4] == "0"
    assert "headcni/host/2" in str(sysctls.problems(ipv6=False)[0])
    [problem] = sysctls.restore()
    assert isinstance(problem, Problem)
    assert "headcni/host/2" in problem.cure
    assert (tree.state / "host.json").read_bytes() == newer


def test_without_a_place_for_the_original_nothing_is_changed(tree):
    tree.state.rmdir()
    sysctls = tree.sysctls()
    assert sysctls.prepare(ipv6=False) == ()
    assert tree[FORWARD4] == "0"
    assert "cannot be recorded" in str(sysctls.problems(ipv6=False)[0])


def test_a_kernel_without_ipv6_is_a_problem_in_words(tree):
    shutil.rmtree(tree.root / "net/ipv6")
    sysctls = tree.sysctls()
    sysctls.prepare(ipv6=True)
    (problem,) = sysctls.problems(ipv6=True)
    assert "net.ipv6.conf.all.forwarding" in problem.what
    assert "IPv6 in the kernel" in problem.cure


def test_names_are_written_as_sysctl_writes_them():
    assert dotted("net/ipv6/conf/eth0.5/accept_ra") == "net.ipv6.conf.eth0/5.accept_ra"


def test_in_a_container_the_tree_is_the_one_that_was_mounted(tree, tmp_path):
    assert sysctl.tree(tmp_path) == Path("/proc/sys")
    (tmp_path / "proc").mkdir()
    tree.root.rename(tmp_path / "proc" / "sys")
    assert sysctl.tree(tmp_path) == tmp_path / "proc" / "sys"


def test_without_a_boot_id_of_its_own_it_is_the_machines(tree):
    (tree.root / "kernel/random/boot_id").unlink()
    tree.sysctls().prepare(ipv6=False)
    document = orjson.loads((tree.state / "host.json").read_bytes())
    assert document["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    tree.sysctls().restore()
    assert tree[FORWARD4] == "0"
