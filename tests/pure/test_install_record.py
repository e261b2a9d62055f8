"""`install.json`: the golden file, damage, the future, and that no writer undoes what another one wrote."""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from reconciler.install import place, record
from reconciler.install.codes import Trouble
from reconciler.install.formats import FORMATS, unreadable
from reconciler.install.record import FILE, InstallRecord, Loaded
from reconciler.store import Store

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden" / "install-1.json"
BIN, CONF, FLANNEL = "/opt/cni/bin/headcni", "/etc/cni/net.d/10-headcni.conflist", "/etc/cni/net.d/05-flannel.conflist"
WRITTEN = InstallRecord(
    version="0.1.0",
    formats={"attachment": 1, "intent": 1},
    binaries={BIN: ("aa" * 32, "bb" * 32), f"{BIN}-ipam": ("aa" * 32,)},
    conflists={CONF: ("cc" * 32,)},
    set_aside=frozenset({BIN, FLANNEL}),
)


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "state")
    made.prepare()
    return made


def test_the_golden_file_is_read_and_written_byte_for_byte():
    assert record.decode(GOLDEN.read_bytes()) == WRITTEN
    assert record.encode(WRITTEN) == GOLDEN.read_bytes()


def test_a_change_is_there_afterwards_and_none_writes_nothing(store):
    assert record.update(store, lambda now: now.with_binary(BIN, "aa")) is None
    assert record.load(store) == Loaded(InstallRecord(binaries={BIN: ("aa",)}))
    before = (store.root / FILE).stat().st_ino
    assert record.update(store, lambda now: now) is None
    assert (store.root / FILE).stat().st_ino == before


def test_what_names_nothing_any_more_goes(store):
    record.update(store, lambda now: WRITTEN)
    record.update(store, lambda now: now.without([BIN, f"{BIN}-ipam", CONF, FLANNEL]))
    assert not (store.root / FILE).exists()


def test_the_newest_digest_is_first_and_only_some_are_kept():
    ours = InstallRecord()
    for number in (*range(20), 15):
        ours = ours.with_conflist(CONF, str(number))
    assert ours.conflists[CONF] == ("15", "19", "18", "17", "16", "14", "13", "12")


def test_two_writers_at_once_lose_nothing(store):
    def write(kind):
        for number in range(25):
            assert record.update(store, lambda now: kind(now, f"/{kind.__name__}/{number}", "aa")) is None  # noqa: B023

    kinds = (InstallRecord.with_binary, InstallRecord.with_conflist)
    threads = [threading.Thread(target=write, args=(kind,)) for kind in kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = record.load(store).record
    assert (len(told.binaries), len(told.conflists)) == (25, 25)


@pytest.mark.parametrize("cut", [0, 30, -5])
def test_a_damaged_one_is_put_into_quarantine_and_what_it_named_is_foreign(store, cut):
    (store.root / FILE).write_bytes(GOLDEN.read_bytes()[:cut])
    told = record.load(store)
    assert told.record == InstallRecord()
    assert told.trouble.code == Trouble.INSTALL_RECORD
    assert store.quarantined() == 1
    assert record.load(store) == Loaded(InstallRecord())


@pytest.mark.parametrize("key", ["binaries", "conflists", "set_aside", "formats"])
def test_a_field_of_another_shape_is_damage(key):
    body = orjson.loads(GOLDEN.read_bytes())
    del body["crc32"]
    with pytest.raises(record.Damaged, match="malformed"):
        record.decode(record.sealed({**body, key: 7}))


def test_one_of_a_newer_version_is_left_alone(store):
    newer = GOLDEN.read_bytes().replace(b"install/1", b"install/2")
    (store.root / FILE).write_bytes(newer)
    told = record.load(store)
    assert (told.record, told.newer, told.trouble.code) == (None, True, Trouble.INSTALL_RECORD)
    assert record.update(store, lambda now: WRITTEN) == told.trouble
    assert (store.root / FILE).read_bytes() == newer


def test_a_full_disk_is_a_refusal_that_leaves_the_old(store, monkeypatch):
    record.update(store, lambda now: WRITTEN)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    refusal = record.update(store, lambda now: now.without([BIN]))
    assert (refusal.code, "No space left" in refusal.msg) == (Trouble.INSTALL_RECORD, True)
    assert record.load(store).record == WRITTEN


def test_the_content_is_on_the_disk_before_the_name_and_the_name_before_it_counts(store, monkeypatch):
    done = []
    for name in ("fsync", "rename"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *of, real=real, name=name: (done.append(name), real(*of)))
    assert record.update(store, lambda now: WRITTEN) is None
    assert done == ["fsync", "rename", "fsync"]


# --- what an older version cannot read


def test_the_same_formats_are_all_readable():
    assert set(FORMATS) == {"attachment", "intent", "host", "mesh", "podcidr"}
    assert list(unreadable(replace(WRITTEN, formats=FORMATS))) == []
    assert list(unreadable(InstallRecord())) == []


def test_newer_and_unknown_formats_are_named():
    later = replace(WRITTEN, version="9.9.9", formats={**FORMATS, "attachment": 3, "policy": 1, "mesh": 0})
    told = [refusal.msg for refusal in unreadable(later)]
    assert told == [
        "version 9.9.9 wrote files of format headcni/attachment/3; this version reads up to 1",
        "version 9.9.9 wrote files of format headcni/policy/1; this version does not know it",
    ]
    assert {refusal.code for refusal in unreadable(later)} == {Trouble.DOWNGRADE}


# --- files that appear whole


def test_a_draft_that_a_kill_left_is_overwritten_or_swept(tmp_path):
    target = tmp_path / "headcni"
    place.draft_of(target).write_bytes(b"half")
    place.draft(target, b"whole", 0o755)
    place.commit(target)
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"whole", 0o755)
    place.draft_of(target).write_bytes(b"half")
    assert place.sweep([target]) == [place.draft_of(target)]
    assert place.sweep([target]) == []
    assert [each.name for each in tmp_path.iterdir()] == ["headcni"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_has_no_digest_and_nobody_waits_for_it(tmp_path, make):
    make(tmp_path / "it")
    with pytest.raises(OSError, match="Not a file"):
        place.digest_at(tmp_path / "it")


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """A directory of uid 64999, seen by root."""
    real = os.stat

    def stat(path, *more, **kinds):
        found = real(path, *more, **kinds)
        return os.stat_result((*found[:4], 64999, *found[5:])) if path == tmp_path else found

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path


def cure(directory, number):
    error = OSError(number, os.strerror(number), str(directory / "headcni"))
    return place.unusable(Trouble.BIN_DIR, "cni.binDir", directory, error).details


def test_root_who_may_not_write_is_told_who_owns_the_directory(theirs):
    assert cure(theirs, errno.EACCES).startswith(f"run `chown root {theirs}` on the node: it belongs to uid 64999")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EPERM, errno.ENOSPC])
def test_where_something_else_is_wrong_the_owner_is_no_matter(theirs, number):
    assert "chown" not in cure(theirs, number)


def test_others_than_root_are_told_to_let_root_write(theirs, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cure(theirs, errno.EACCES).startswith("let root write there")


def test_of_what_is_not_there_nobody_is_the_owner(theirs):
    assert cure(theirs / "missing", errno.EACCES).startswith("let root write there")
