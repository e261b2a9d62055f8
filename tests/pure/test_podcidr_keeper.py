"""The remembered choice: its file, what a later start makes of it, and a change until the last pod is gone."""

from __future__ import annotations

import errno
import logging
from dataclasses import replace
from ipaddress import ip_network as net
from pathlib import Path

import orjson
import pytest

from reconciler.config import Config, changes, load
from reconciler.node.keeper import Keeper
from reconciler.node.podcidr import Source
from reconciler.node.remembered import FILE, Remembered, decode, encode, read
from reconciler.operate.log import Once
from reconciler.store import Store
from statemachine.attachment import Damaged, UnknownVersion

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden" / "podcidr-1.json"
REMEMBERED = Remembered(
    node="worker-1",
    cidrs=(net("10.42.61.0/24"), net("fd00:42:0:3d::/64")),
    source=Source.SHARE,
    since=1795260754.25,
    guess=True,
    cluster=(net("10.42.0.0/16"), net("fd00:42::/56")),
    services=(net("10.43.0.0/16"),),
    before=(net("10.244.61.0/24"),),
)
GUESS, FILED, ASKED = net("10.244.61.0/24"), net("10.244.3.0/24"), net("10.244.5.0/24")


class Node:
    """A state directory and the host's files; each `start` is a daemon's."""

    def __init__(self, at: Path) -> None:
        self.root, self.now = at / "host", 1000.0
        self.store = Store(at / "state")
        self.store.prepare()

    def start(self, environ=None, api=None, **flags) -> Config:
        loaded = load({"node.root": str(self.root), "node.name": "worker-1", **flags}, environ or {}, None)
        assert isinstance(loaded, Config), loaded
        self.configured = loaded
        self.once = Once(logging.getLogger("headcni"))
        self.keeper = Keeper(self.store, self.once, lambda: self.now)
        return self.keeper.settle(loaded, environ or {}, api)

    def kubelet(self, text: str) -> None:
        file = self.root / "var/lib/kubelet/config.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def no_files(self) -> None:
        (self.root / "var/lib/kubelet/config.yaml").unlink()

    @property
    def remembered(self) -> Remembered:
        found = read(str(self.store.root))
        assert found is not None
        return found


@pytest.fixture
def node(tmp_path, caplog):
    caplog.set_level(logging.INFO, "headcni")
    return Node(tmp_path)


# --- the file


def test_a_file_of_version_1_is_read_and_written_as_it_was():
    assert decode(GOLDEN.read_bytes()) == REMEMBERED
    assert encode(REMEMBERED) == GOLDEN.read_bytes()


@pytest.mark.parametrize("key", ["node", "cidrs", "source", "since", "guess", "cluster", "services", "before"])
def test_a_file_without_a_key_is_damaged(key):
    body = orjson.loads(GOLDEN.read_bytes())
    del body[key]
    with pytest.raises(Damaged, match=key):
        decode(orjson.dumps(body))


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"format": "headcni/podcidr/1", "cidrs": ["x"]}', b"{}"])
def test_damaged(raw):
    with pytest.raises(Damaged):
        decode(raw)


def test_a_newer_version_is_told_apart():
    with pytest.raises(UnknownVersion):
        decode(b'{"format": "headcni/podcidr/2"}')


def test_a_damaged_file_goes_into_quarantine_and_the_sources_count(node):
    (node.store.root / FILE).write_bytes(b"{")
    assert node.start().pod_cidrs == (GUESS,)
    assert (node.store.root / "quarantine" / FILE).exists()
    assert any("was damaged" in text for text in node.once.said)
    assert node.remembered.cidrs == (GUESS,)


def test_a_newer_file_is_left_alone(node):
    (node.store.root / FILE).write_bytes(b'{"format": "headcni/podcidr/2"}')
    assert node.start().pod_cidrs == (GUESS,)
    assert (node.store.root / FILE).read_bytes() == b'{"format": "headcni/podcidr/2"}'
    assert any("is newer" in text for text in node.once.said)


def test_a_full_disk_is_told_and_tried_again(node, monkeypatch):
    real, full = node.store.write, [True]

    def write(name, content):
        if full[0]:
            monkeypatch.setattr("reconciler.store.os.open", _no_space)
        try:
            return real(name, content)
        finally:
            monkeypatch.undo()

    monkeypatch.setattr(node.store, "write", write)
    node.start()
    assert any("could not be written" in text for text in node.once.said)
    full[0] = False
    node.keeper.follow(dict)
    assert node.remembered.cidrs == (GUESS,)
    assert not any("could not be written" in text for text in node.once.said)


def _no_space(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


# --- what a later start makes of it


def test_a_kill_before_it_was_remembered_costs_nothing(node, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr("reconciler.node.keeper.save", killed)
        with pytest.raises(KeyboardInterrupt):
            node.start()
    assert not (node.store.root / FILE).exists()
    assert node.start().pod_cidrs == (GUESS,)
    assert node.remembered.before == ()


def test_a_guess_is_the_same_without_the_files_it_came_from(node):
    node.kubelet("networking: {podSubnet: 10.99.0.0/16, serviceSubnet: 10.97.0.0/16}")
    first = node.start()
    assert first.pod_cidrs == (net("10.99.61.0/24"),)
    node.no_files()
    node.now = 2000.0
    again = node.start()
    assert (again.pod_cidrs, again.cluster_cidrs, again.service_cidrs) == (
        *(first.pod_cidrs, (net("10.99.0.0/16"),), (net("10.97.0.0/16"),)),
    )
    assert (node.remembered.source, node.remembered.since) == (Source.SHARE, 1000.0)
    assert node.keeper.data()["guess"]


def test_what_the_api_said_is_kept_while_it_is_away(node):
    assert node.start(api=(ASKED,)).pod_cidrs == (ASKED,)
    assert node.start().pod_cidrs == (ASKED,)
    assert not node.keeper.data()["guess"]
    assert node.remembered.source is Source.API


@pytest.mark.parametrize("by", ["flag", "environment"])
def test_what_an_operator_took_away_is_not_used_again(node, by):
    if by == "flag":
        node.start(**{"network.podCIDR.nodeLocal": "10.244.1.0/24"})
    else:
        node.start({"NODE_POD_CIDR": "10.244.1.0/24"})
    assert node.start().pod_cidrs == (GUESS,)
    assert node.remembered.before == (net("10.244.1.0/24"),)


def test_a_copied_disk_is_another_node(node):
    node.start(api=(ASKED,))
    assert node.start(**{"node.name": "worker-2"}).pod_cidrs == (net("10.244.241.0/24"),)
    (finding,) = [each for each in node.keeper.data()["findings"] if each["source"] == "remembered"][:1]
    assert finding["why"] == "it was of a node worker-1, not worker-2"


def test_a_configured_base_is_not_remembered(node):
    node.start(**{"network.podCIDR.base": "10.50.0.0/16"})
    assert node.start(**{"network.podCIDR.nodeLocal": "10.244.1.0/24"}).cluster_cidrs == (net("10.244.0.0/16"),)


# --- into the configuration


def test_only_what_the_operator_left_open_is_replaced(node):
    node.kubelet(f"podCIDR: {FILED}\nnetworking: {{podSubnet: 10.244.0.0/17, serviceSubnet: 10.97.0.0/16}}")
    assert node.start().cluster_cidrs == (net("10.244.0.0/17"),)
    flags = {
        "network.podCIDR.nodeLocal": "10.244.1.0/24",
        "network.podCIDR.base": "10.244.0.0/16",
        "network.serviceCIDR": "10.98.0.0/16",
    }
    assert node.start(**flags) == node.configured


def test_a_reload_without_a_change_is_none(node):
    node.kubelet(f"podCIDR: {FILED}")
    running = node.start()
    assert changes(running, node.keeper.applied(node.configured)) == []
    told = replace(
        node.configured, pod_cidrs=(ASKED,), origins={**node.configured.origins, "network.podCIDR.nodeLocal": "x"}
    )
    assert [each.new for each in changes(running, node.keeper.applied(told))] == [str(ASKED)]


def test_a_reload_that_takes_the_operators_cidr_away_is_a_change(node):
    running = node.start(**{"network.podCIDR.nodeLocal": "10.244.1.0/24"})
    bare = load({"node.root": str(node.root), "node.name": "worker-1"}, {}, None)
    assert [each.key for each in changes(running, node.keeper.applied(bare))] == ["network.podCIDR.nodeLocal"]


# --- what is told


@pytest.mark.parametrize(
    ("start", "line"),
    [
        (
            {"network.podCIDR.nodeLocal": "10.244.1.0/24"},
            "Using Pod CIDR from config: 10.244.1.0/24 (flag --pod-cidr: network.podCIDR.nodeLocal)",
        ),
        ({"environ": {"NODE_POD_CIDR": "10.244.2.0/24"}}, "Using Pod CIDR from environment variable: 10.244.2.0/24"),
        ({"api": (ASKED,)}, "Found Pod CIDR in PodCIDRs: 10.244.5.0/24 (Node.spec.podCIDRs)"),
        ({}, "Guessed Pod CIDR from default cluster CIDR: 10.244.61.0/24"),
    ],
)
def test_the_line_that_operators_grep_for(node, caplog, start, line):
    node.start(**start)
    (said,) = [each.message for each in caplog.records if "Pod CIDR" in each.message and each.levelno == logging.INFO]
    assert said.startswith(line)
    assert "cluster=10.244.0.0/16 services=10.96.0.0/16" in said


def test_the_line_of_a_kubelet_configuration(node, caplog):
    node.kubelet(f"podCIDR: {FILED}")
    node.start()
    at = node.root / "var/lib/kubelet/config.yaml"
    assert f"Found Pod CIDR in kubelet config: 10.244.3.0/24 ({at}: podCIDR)" in caplog.text


def test_a_choice_that_is_the_same_is_not_told_again(node, caplog):
    node.start()
    node.keeper.settle(node.configured, {})
    assert len([each for each in caplog.records if "Guessed" in each.message]) == 1


def test_warnings_go_when_their_cause_goes(node):
    node.kubelet("podCIDR: 10.244.3.7/24")
    node.start()
    assert len(node.once.said) == 2
    node.kubelet(f"podCIDR: {FILED}")
    assert node.keeper.settle(node.configured, {}).pod_cidrs == (FILED,)
    assert node.once.said == []


# --- a change


def test_a_change_is_told_explained_and_finished(node, caplog):
    node.start()
    assert not node.keeper.follow(dict)
    node.kubelet(f"podCIDR: {FILED}")
    assert node.start().pod_cidrs == (FILED,)
    assert node.keeper.follow(lambda: {GUESS: 2, FILED: 1})
    assert node.keeper.data()["change"] == {"before": [str(GUESS)], "pods": 2}
    (told,) = node.once.said
    assert told.startswith(
        "the pod CIDR was 10.244.61.0/24 and is now 10.244.3.0/24; pods with an address of the former: 2"
    )
    assert not node.keeper.follow(lambda: {GUESS: 2, FILED: 5})
    assert node.keeper.follow(lambda: {GUESS: 1})
    assert node.keeper.data()["change"]["pods"] == 1
    assert node.keeper.follow(lambda: {FILED: 5})
    assert node.once.said == []
    assert node.keeper.data()["change"] is None
    assert "no pod has an address of the former any more" in caplog.text
    assert not node.keeper.follow(dict)
    assert node.remembered.before == ()


def test_a_restart_in_between_still_knows_the_former_one(node):
    node.start()
    node.kubelet(f"podCIDR: {FILED}")
    node.start()
    node.kubelet(f"podCIDR: {ASKED}")
    node.start()
    assert node.keeper.follow(lambda: {GUESS: 1, FILED: 1})
    assert node.keeper.data()["change"] == {"before": [str(GUESS), str(FILED)], "pods": 2}


def test_one_that_comes_back_is_not_former(node):
    node.start()
    node.kubelet(f"podCIDR: {FILED}")
    node.start()
    node.no_files()
    assert node.start().pod_cidrs == (FILED,)
    node.kubelet(f"podCIDR: {GUESS}")
    node.start()
    assert node.remembered.before == (FILED,)


def test_the_api_that_knows_better_later(node):
    """As the part that asks it will do while the daemon runs."""
    node.start()
    now = node.keeper.settle(node.configured, {}, api=(ASKED,))
    assert now.pod_cidrs == (ASKED,)
    assert node.once.said == []  # the guess is over
    assert node.keeper.follow(lambda: {GUESS: 3})
    assert node.keeper.data()["change"] == {"before": [str(GUESS)], "pods": 3}


def test_pods_are_not_counted_without_a_change(node):
    def count():
        raise AssertionError("this walks over all records")

    node.start()
    assert not node.keeper.follow(count)
