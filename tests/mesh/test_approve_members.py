"""The node list from a file: everything wrong at once, and a slip in it stops nothing."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from cni.spec import Code, Refusal
from reconciler.mesh.approve import Identity, Mark, Member
from reconciler.mesh.members import MembersFile, read_members

GOOD = "nodes:\n- {name: worker-1, podCIDRs: [10.244.1.0/24], tailnet: {address: 100.64.0.3}}\n"
KEY = "nodekey:" + "0a" * 32


@pytest.fixture
def file(tmp_path):
    return tmp_path / "nodes.yaml"


def refused(file, text):
    file.write_text(text)
    found = read_members(file)
    assert isinstance(found, Refusal), found
    assert found.code == Code.INVALID_CONFIGURATION
    assert str(file) in found.msg
    assert found.details
    return str(found)


def test_each_mark(file):
    file.write_text(
        GOOD
        + f"- {{name: two, podCIDRs: '10.244.2.0/24,fd00::/64', tailnet: {{nodeKey: '{KEY}'}}}}\n"
        + "- {name: three, podCIDRs: 10.244.3.0/24, tailnet: {id: 7}}\n"
        + "- {name: four, podCIDRs: [10.244.4.0/24], tailnet: {address: 'FD7A:115c::0:4'}}\n"
    )
    assert read_members(file) == (
        Member("worker-1", (ip_network("10.244.1.0/24"),), Identity(Mark.ADDRESS, "100.64.0.3")),
        Member("two", (ip_network("10.244.2.0/24"), ip_network("fd00::/64")), Identity(Mark.NODE_KEY, KEY)),
        Member("three", (ip_network("10.244.3.0/24"),), Identity(Mark.ID, "7")),
        Member("four", (ip_network("10.244.4.0/24"),), Identity(Mark.ADDRESS, "fd7a:115c::4")),
    )


def test_no_nodes_yet(file):
    file.write_text("nodes: []")
    assert read_members(file) == ()


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("{podCIDRs: [10.244.1.0/24], tailnet: {id: 1}}", "name None"),
        ("{name: 7, podCIDRs: [10.244.1.0/24], tailnet: {id: 1}}", "name 7"),
        ("{name: a, tailnet: {id: 1}}", "podCIDRs: none"),
        ("{name: a, podCIDRs: [10.244.1.7/24], tailnet: {id: 1}}", "write 10.244.1.0/24"),
        ("{name: a, podCIDRs: [banana], tailnet: {id: 1}}", "'banana' is not a CIDR"),
        ("{name: a, podCIDRs: [7], tailnet: {id: 1}}", "7 is not a CIDR"),
        ("{name: a, podCIDRs: [10.244.1.0/24, 10.244.2.0/24], tailnet: {id: 1}}", "one address family twice"),
        ("{name: a, podCIDR: [10.244.1.0/24], tailnet: {id: 1}}", "unknown key 'podCIDR'"),
        ("{name: a, podCIDRs: [10.244.1.0/24]}", "does not say which node"),
        ("{name: a, podCIDRs: [10.244.1.0/24], tailnet: 100.64.0.1}", "does not say which node"),
        ("{name: a, podCIDRs: [10.244.1.0/24], tailnet: {id: 1, address: 100.64.0.1}}", "does not say which node"),
        ("{name: a, podCIDRs: [10.244.1.0/24], tailnet: {hostname: worker-1}}", "may choose itself"),
        ("{name: a, podCIDRs: [10.244.1.0/24], tailnet: {address: worker-1}}", "'worker-1' is not one"),
        ("{name: a, podCIDRs: [10.244.1.0/24], tailnet: {nodeKey: 'nodekey:12'}}", "64 hexadecimal"),
        ("{name: a, podCIDRs: [10.244.1.0/24], tailnet: {id: -1}}", "like 7"),
        ("worker-1", "'worker-1' is not a node"),
    ],
)
def test_an_entry_that_is_wrong_is_named_with_its_cure(file, entry, words):
    told = refused(file, f"nodes:\n- {entry}\n")
    assert words in told
    assert "entry 1" in told


def test_all_that_is_wrong_is_told_at_once(file):
    told = refused(file, GOOD + "- {name: b, podCIDRs: [x], tailnet: {id: y}, extra: 1}\n" + GOOD.partition("\n")[2])
    for words in (
        "4 problems",
        "entry 2 (b): podCIDRs",
        "entry 2 (b): tailnet",
        "'extra'",
        "entry 3 (worker-1): there is",
    ):
        assert words in told


@pytest.mark.parametrize("text", ["", "[]", "nodes: 7", "nodes: {a: 1}", "node: []", "nodes: []\nmore: 1", "just text"])
def test_a_file_that_is_no_list_of_nodes(file, text):
    assert "write nodes:" in refused(file, text)


@pytest.mark.parametrize("text", ["nodes: [", "a: b: c", "\t- x", "nodes: !!python/object:os.system []", "\x00"])
def test_a_file_that_is_not_yaml(file, text):
    assert "not YAML" in refused(file, text)


def test_a_file_that_is_not_there(file, tmp_path):
    for missing in (file, tmp_path):
        found = read_members(missing)
        assert isinstance(found, Refusal)
        assert f"{missing} cannot be read" in found.msg


# --- as it changes


def test_a_new_version_is_seen_and_an_old_one_not_read_again(file, monkeypatch):
    file.write_text(GOOD)
    source = MembersFile(file)
    first = source.read()
    assert source.read() is first
    file.write_text(GOOD.replace("worker-1", "worker-number-one"))
    assert source.read().members[0].name == "worker-number-one"


def test_a_broken_new_version_leaves_the_old_one_in_use_and_says_so(file):
    file.write_text(GOOD)
    source = MembersFile(file)
    before = source.read()
    for broken in ("nodes: [", None):
        file.unlink() if broken is None else file.write_text(broken)
        for _ in range(2):
            now = source.read()
            assert now.members == before.members
            assert now.problem is not None
            assert "stays in use" in now.problem.msg
            assert now.problem.msg.count("stays in use") == 1
    file.write_text(GOOD)
    assert source.read() == before


def test_a_first_version_that_is_broken_is_refused_until_it_is_corrected(file):
    source = MembersFile(file)
    assert isinstance(source.read(), Refusal)
    file.write_text(GOOD)
    assert len(source.read().members) == 1
