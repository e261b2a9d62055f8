"""The daemon and the directory of network configurations: what is there after each look, after kills, after leaving.

The property at the end lets a daemon, an operator and another plugin do what they like in one directory, kills the
daemon between any two file operations, and then uninstalls: what others last wrote is there, and nothing else.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from configured import loaded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from killed import killed_at

from reconciler.install import keeper, place, record
from reconciler.install.codes import Trouble
from reconciler.install.keeper import ConflistKeeper
from reconciler.install.removal import remove_conflists
from reconciler.operate.log import Once
from reconciler.store import Store

OURS, FLANNEL = "10-headcni.conflist", "05-flannel.conflist"


class Node:
    def __init__(self, root, **more):
        self.conf, self.template, self.ready, self.changes = root / "net.d", root / "template", True, 0
        self.conf.mkdir()
        self.store = Store(root / "state")
        self.once = Once(logging.getLogger("headcni"))
        given = {"stateDir": f"{root}/state", "cni.confDir": str(self.conf), "cni.template": str(self.template)}
        self.configure(given | more)
        self.write_template("one")
        self.restart()

    def configure(self, given):
        self._given = given
        self.config = loaded(given)

    def reconfigure(self, **more):
        self.configure(self._given | more)

    def restart(self):
        self.store.prepare()
        self.keeper = ConflistKeeper(
            lambda: self.config, self.store, lambda: self.ready, self.once, lambda: setattr(self, "changes", 1)
        )

    def write_template(self, name):
        plugin = {"type": "headcni", "state_dir": str(self.store.root), "ipam": {"type": "headcni-ipam"}}
        self.template.write_text(json.dumps({"cniVersion": "1.0.0", "name": name, "plugins": [plugin]}))

    def look(self, now=0.0):
        done = self.keeper.look(now)
        self.keeper._tell(done)
        return [line.replace(f"{self.conf}/", "") for line in done.done]

    def files(self):
        return {each.name: each.read_text() for each in self.conf.iterdir()}

    @property
    def wished(self):
        return self.template.read_text()


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


def conflist(kind, name="cbr0"):
    return json.dumps({"cniVersion": "1.0.0", "name": name, "plugins": [{"type": kind}]})


# --- what is there after a look


def test_the_template_becomes_the_configuration_once(node):
    assert node.look() == [f"wrote {OURS}: the node can serve pods"]
    assert node.files() == {OURS: node.wished}
    assert (node.conf / OURS).stat().st_mode & 0o777 == 0o600
    inode = (node.conf / OURS).stat().st_ino
    assert node.look() == []
    assert (node.conf / OURS).stat().st_ino == inode


def test_it_follows_the_template(node):
    node.look()
    node.write_template("two")
    assert node.look() == [f"wrote {OURS}: the template has changed"]
    assert node.files() == {OURS: node.wished}


def test_it_follows_a_configmap(node):
    """The kubelet renews it by one link to a directory, and removes the directory that was."""
    mounted = node.template.parent / "configmap"
    mounted.mkdir()
    (mounted / "conflist").symlink_to("..data/conflist")
    node.reconfigure(**{"cni.template": str(mounted / "conflist")})

    def renew(version):
        node.write_template(version)
        (mounted / version).mkdir()
        node.template.rename(mounted / version / "conflist")
        (mounted / "..data_tmp").symlink_to(version)
        (mounted / "..data_tmp").rename(mounted / "..data")

    renew("one")
    node.look()
    renew("two")
    shutil.rmtree(mounted / "one")
    assert node.look() == [f"wrote {OURS}: the template has changed"]
    assert json.loads(node.files()[OURS])["name"] == "two"


def test_it_is_put_back(node):
    node.look()
    (node.conf / OURS).unlink()
    assert node.look() == [f"wrote {OURS}: it was missing"]
    (node.conf / OURS).write_text(conflist("bridge"))
    assert node.look() == [f"wrote {OURS}: it was changed"]
    assert node.files() == {OURS: node.wished}


def test_a_daemon_that_starts_again_knows_its_file(node):
    node.look()
    node.restart()
    assert node.look() == []


def test_a_fight_is_reported_and_given_up_until_there_was_peace(node):
    for now in range(4):
        node.look(now)
        (node.conf / OURS).write_text(conflist("bridge"))
    assert node.look(4) == []
    assert node.files() == {OURS: conflist("bridge")}
    assert [f"code {Trouble.CONFLIST_FIGHT:d}" in each for each in node.once.said] == [True]
    assert node.look(900) == [f"wrote {OURS}: it was changed"]
    assert node.once.said == []


def test_another_name_and_another_directory_take_the_old_file_away(node, tmp_path):
    node.look()
    node.reconfigure(**{"cni.confFile": "05-headcni.conflist"})
    assert node.look() == [
        "wrote 05-headcni.conflist: the node can serve pods",
        f"removed {OURS}: the network configuration has another name now",
    ]
    (tmp_path / "other").mkdir()
    node.reconfigure(**{"cni.confFile": OURS, "cni.confDir": str(tmp_path / "other")})
    node.look()
    assert node.files() == {}
    assert [each.name for each in (tmp_path / "other").iterdir()] == [OURS]
    assert list(record.load(node.store).record.conflists) == [f"{tmp_path}/other/{OURS}"]


def test_a_former_directory_that_is_not_mounted_any_more_is_not_forgotten(node, tmp_path):
    node.look()
    former, hidden = str(node.conf), tmp_path / "not mounted"
    node.conf.rename(hidden)
    node.conf = tmp_path / "new.d"
    node.conf.mkdir()
    node.reconfigure(**{"cni.confDir": str(node.conf)})
    assert node.look() == [f"wrote {OURS}: the node can serve pods"]
    assert node.look() == []
    hidden.rename(former)
    assert node.look() == [f"removed {former}/{OURS}: the network configuration has another name now"]


def test_an_old_file_that_somebody_changed_stays(node):
    node.look()
    (node.conf / OURS).write_text(conflist("bridge"))
    node.reconfigure(**{"cni.confFile": "05-headcni.conflist"})
    assert node.look()[-1] == f"left {OURS}: it is another one now"
    assert node.files()[OURS] == conflist("bridge")
    assert node.look() == []


# --- what is wrong is said, and withdrawn when it is over


def warned(node, trouble, *words):
    node.look()
    assert len(node.once.said) == 1, node.once.said
    text = node.once.said[0]
    assert f"(code {trouble:d})" in text
    assert [word for word in words if word not in text] == []
    assert node.changes
    return text


def test_a_broken_template_writes_nothing_and_leaves_what_is_there(node):
    good = node.wished
    node.look()
    node.template.write_text('{"plugins": [')
    warned(node, Trouble.TEMPLATE, str(node.template), "is not JSON")
    assert node.files() == {OURS: good}
    node.template.unlink()
    warned(node, Trouble.TEMPLATE, "does not exist")
    node.template.mkdir()
    warned(node, Trouble.TEMPLATE, "is a directory")
    node.template.rmdir()
    node.write_template("two")
    node.look()
    assert node.once.said == []
    assert node.files() == {OURS: node.wished}


def test_a_directory_that_is_not_there(node):
    node.conf.rmdir()
    warned(node, Trouble.CONF_DIR, f"cni.confDir = {node.conf}", "No such file", "create the directory")
    node.conf.mkdir()
    assert node.look() == [f"wrote {OURS}: it was missing"]
    assert node.once.said == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_nothing_sets_nothing_aside(node, monkeypatch, number):
    node.reconfigure(**{"cni.setAside": "true"})
    (node.conf / FLANNEL).write_text(conflist("flannel"))

    def failing(target, content, mode, real=place.draft):
        if node.conf in target.parents:
            raise OSError(number, os.strerror(number), str(target))
        return real(target, content, mode)

    with monkeypatch.context() as full:
        full.setattr(place, "draft", failing)
        warned(node, Trouble.CONF_DIR, os.strerror(number))
    assert node.files() == {FLANNEL: conflist("flannel")}
    assert len(node.look()) == 2


def test_one_of_others_that_cannot_be_moved_keeps_ours_not_away(node, monkeypatch):
    node.reconfigure(**{"cni.setAside": "true"})
    (node.conf / FLANNEL).write_text(conflist("flannel"))

    def immutable(source, target, real=os.rename):
        if Path(source).name == FLANNEL:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(source))
        real(source, target)

    with monkeypatch.context() as held:
        held.setattr(os, "rename", immutable)
        assert node.look() == [f"wrote {OURS}: the node can serve pods"]
        warned(node, Trouble.CONF_DIR, FLANNEL, os.strerror(errno.EPERM))
        assert node.files() == {OURS: node.wished, FLANNEL: conflist("flannel")}
    assert node.look() == [f"set {FLANNEL} aside, as {FLANNEL}.before-headcni"]


def test_a_second_installation(node):
    (node.conf / "90-other.conflist").write_text(conflist("headcni"))
    warned(node, Trouble.SECOND_INSTALLATION, "90-other.conflist", "/var/lib/headcni", OURS, str(node.store.root))
    assert OURS not in node.files()


def test_a_record_of_a_newer_version_keeps_the_hands_off(node):
    node.look()
    file = node.store.root / record.FILE
    file.write_bytes(file.read_bytes().replace(b"install/1", b"install/2"))
    node.write_template("two")
    before = node.files()
    warned(node, Trouble.INSTALL_RECORD, "is newer")
    assert node.files() == before


# --- others


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "7", "[" * 9999, '{"plugins": 7}', '{"plugins": [7, {"type": 7}, {"type": "x", "ipam": 7}]}'),
        json.dumps({"type": "headcni-ipam", "state_dir": 7}),
        json.dumps({"type": "x", "state_dir": "\0"}),
    ],
)
def test_whatever_others_write_is_no_fault_of_ours(node, content):
    (node.conf / "99-odd.conf").write_text(content)
    (node.conf / os.fsdecode(b"00-\xff.conf")).write_text("")
    assert node.look() == [f"wrote {OURS}: the node can serve pods"]
    assert node.once.said == []


def test_a_state_directory_that_cannot_be_one_is_another(node):
    (node.conf / "99-odd.conf").write_text(json.dumps({"type": "headcni", "state_dir": "/\0"}))
    warned(node, Trouble.SECOND_INSTALLATION)


def test_others_are_set_aside_and_come_back(node):
    node.reconfigure(**{"cni.setAside": "true"})
    (node.conf / FLANNEL).write_text(conflist("flannel"))
    (node.conf / OURS).write_text(conflist("bridge"))
    before = node.files()
    assert node.look() == [
        f"set {OURS} aside, as {OURS}.before-headcni",
        f"wrote {OURS}: the node can serve pods",
        f"set {FLANNEL} aside, as {FLANNEL}.before-headcni",
    ]
    assert set(node.files()) == {OURS, f"{OURS}.before-headcni", f"{FLANNEL}.before-headcni"}
    remove_conflists(node.store)
    assert node.files() == before
    assert not (node.store.root / record.FILE).exists()


def test_without_being_asked_it_leaves_who_wins_alone(node):
    (node.conf / FLANNEL).write_text(conflist("flannel"))
    node.look()
    assert set(node.files()) == {OURS, FLANNEL}


def test_what_somebody_made_of_our_file_stays_when_we_leave(node):
    node.look()
    (node.conf / OURS).write_text(conflist("bridge"))
    assert remove_conflists(node.store) == [f"left {node.conf}/{OURS}: it is not as HeadCNI wrote it"]
    assert node.files() == {OURS: conflist("bridge")}


def test_a_directory_that_is_not_mounted_is_named(node):
    node.look()
    node.conf.rename(node.conf.parent / "elsewhere")
    assert remove_conflists(node.store) == [f"left {node.conf}/{OURS}: its directory is not here"]


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("operation", ["draft", "sync"])
def test_a_record_that_cannot_forget_is_no_obstacle_to_leaving(node, monkeypatch, operation):
    node.reconfigure(**{"cni.setAside": "true"})
    (node.conf / FLANNEL).write_text(conflist("flannel"))
    before = node.files()
    node.look()
    record.update(node.store, lambda now: now.with_binary("/nowhere/headcni", "aa"))  # so that the record stays
    named = record.load(node.store).record
    with monkeypatch.context() as full:
        full.setattr(place, operation, no_space)
        done = remove_conflists(node.store)
    assert [each for each in done if not isinstance(each, str)] == []
    assert done[-1].startswith(f"warning: {node.store.root}/{record.FILE} still names what was taken back")
    assert done[-1].endswith("No space left on device")
    assert node.files() == before
    assert record.load(node.store).record == named
    assert [each for each in remove_conflists(node.store) if "warning" in each] == []
    assert node.files() == before
    assert not record.load(node.store).record.conflists


@pytest.mark.parametrize("name", ["unlink", "rename"])
def test_what_cannot_be_taken_back_is_a_refusal_and_stays_in_the_record(node, monkeypatch, name):
    (node.conf / OURS).write_text(conflist("bridge"))
    node.reconfigure(**{"cni.setAside": "true"})
    node.look()
    named = record.load(node.store).record
    with monkeypatch.context() as full:
        full.setattr(os, name, no_space)
        done = remove_conflists(node.store)
    assert done[-1].code == Trouble.SET_ASIDE
    assert done[-1].msg == f"{node.conf}/{OURS}: No space left on device"
    assert record.load(node.store).record == named


# --- the task


def test_nothing_is_looked_at_before_the_node_is_ready(node, monkeypatch):
    monkeypatch.setattr(keeper, "WAIT_SECONDS", 0.001)
    monkeypatch.setattr(keeper, "LOOK_SECONDS", 0.001)
    node.ready = False
    asks = iter([False, False, False, True])
    seen = []

    def ready():
        seen.append(node.files())
        return next(asks, True)

    async def until_written():
        written = asyncio.Event()
        node.keeper = ConflistKeeper(lambda: node.config, node.store, ready, node.once, written.set)
        node.keeper._tell = lambda done: written.set()
        task = asyncio.create_task(node.keeper.run())
        await written.wait()
        task.cancel()

    asyncio.run(asyncio.wait_for(until_written(), 10))
    assert seen[:4] == [{}, {}, {}, {}]
    assert node.files() == {OURS: node.wished}


def looked(node, guesses):
    """What the directory holds each time that somebody asks whether the pod CIDR is a guess, and in the end."""
    seen = []

    async def until_written():
        written = asyncio.Event()

        def asked():
            seen.append(sorted(node.files()))
            return guesses()

        node.keeper = ConflistKeeper(
            lambda: node.config, node.store, lambda: True, node.once, lambda: None, guesses=asked
        )
        node.keeper._tell = lambda done: written.set()
        task = asyncio.create_task(node.keeper.run())
        await written.wait()
        task.cancel()

    asyncio.run(asyncio.wait_for(until_written(), 10))
    return seen, sorted(node.files())


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(keeper, "WAIT_SECONDS", 0.001)
    monkeypatch.setattr(keeper, "GUESS_SECONDS", 1000.0)


def test_no_pod_is_asked_for_while_the_pod_cidr_is_a_guess(node, quick):
    guesses = iter([True, True, False])
    assert looked(node, lambda: next(guesses)) == ([[], [], []], [OURS])


def test_one_that_stays_a_guess_is_served_after_a_while(node, quick, monkeypatch):
    monkeypatch.setattr(keeper, "GUESS_SECONDS", 0.02)
    seen, files = looked(node, lambda: True)
    assert (len(seen) > 1, files) == (True, [OURS])


def test_a_daemon_that_starts_again_keeps_its_file_right_whatever_it_guesses(node, quick):
    node.look()
    node.write_template("two")
    assert looked(node, lambda: True) == ([[OURS]], [OURS])
    assert node.files() == {OURS: node.wished}


# --- anything, in any order, killed anywhere


NAMES = (FLANNEL, OURS, "20-late.conflist")
ACTS = st.one_of(
    st.tuples(st.just("look"), st.integers(0, 14)),
    st.tuples(st.just("look"), st.just(99)),
    st.tuples(st.just("template"), st.sampled_from(("one", "two"))),
    st.tuples(st.just("write"), st.sampled_from(NAMES)),
    st.tuples(st.just("remove"), st.sampled_from(NAMES)),
    st.tuples(st.just("set aside"), st.booleans()),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=st.lists(ACTS, max_size=9), kills=st.lists(st.integers(0, 12), max_size=3))
def test_whatever_happens_others_get_back_what_they_last_wrote(acts, kills, monkeypatch):
    root = Path(tempfile.mkdtemp(prefix="headcni"))
    try:
        node = Node(root)
        may_be = played(node, acts, monkeypatch)
        for kill in (*kills, 99):
            with killed_at(kill, monkeypatch):
                remove_conflists(node.store)
        files = node.files()
        assert [name for name in NAMES if files.get(name) not in may_be[name]] == []
        asides = {name.removesuffix(place.ASIDE) for name in files if name not in NAMES}
        assert asides <= files.keys(), "set aside, and its owner wrote another one since"
        assert not (node.store.root / record.FILE).exists()
    finally:
        shutil.rmtree(root)


def played(node, acts, monkeypatch):
    """By name, what may be there in the end: what its owner wrote last, or nothing."""
    may_be = {name: {None} for name in NAMES}
    for serial, (act, how) in enumerate(acts):
        if act == "look":
            with killed_at(how, monkeypatch):
                node.look(serial * 1000.0)
            node.restart()
            whole(node)
        elif act == "template":
            node.write_template(how)
        elif act == "set aside":
            node.reconfigure(**{"cni.setAside": str(how).lower()})
        elif act == "write":
            text = conflist("flannel", f"net{serial}")
            (node.conf / how).write_text(text)
            ours = record.load(node.store).record.conflists
            may_be[how] = {text} | (may_be[how] if str(node.conf / how) in ours else set())  # then it is put back
        elif (node.conf / how).exists():
            (node.conf / how).unlink()
            aside = place.aside_of(node.conf / how)
            may_be[how] = {aside.read_text() if aside.exists() else None}
    return may_be


def whole(node):
    """Whatever a runtime would read is somebody's whole file."""
    for name, text in node.files().items():
        if name.endswith((".conf", ".conflist", ".json")):
            assert json.loads(text)["plugins"], name
