"""`mesh.json`: the golden file, damage, the future, a full disk, and that it is on the disk before it counts."""

import errno
import os
import zlib
from ipaddress import ip_network
from pathlib import Path

import orjson
import pytest

from cni.spec import Code, Refusal
from reconciler.mesh import record as module
from reconciler.mesh.record import FILE, Changed, Loaded, MeshRecord, decode, encode, load, save
from reconciler.store import Store
from statemachine.attachment import Damaged, UnknownVersion

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden" / "mesh-1.json"
RECORD = MeshRecord(
    control_url="https://headscale.example.com",
    announced=frozenset(map(ip_network, ["fd00:10:244:1::/64", "10.244.1.0/24", "10.244.0.7/32"])),
    prefs={"RouteAll": Changed(False, True), "CorpDNS": Changed(True, False)},
)
WHOLE = encode(RECORD)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "state")
    store.prepare()
    return store


def test_a_record_of_version_1_is_read_and_written_as_it_was():
    assert decode(GOLDEN.read_bytes()) == RECORD
    assert encode(RECORD) == GOLDEN.read_bytes()


def test_a_record_of_a_server_speaks_of_that_server_only():
    assert RECORD.written_for("https://HEADSCALE.example.com:443/")
    assert not RECORD.written_for("https://another.example.com")
    assert MeshRecord("https://headscale.example.com").written_for("https://another.example.com"), "it says nothing"


# --- on the disk


def test_what_is_saved_is_loaded(store):
    assert load(store) == Loaded(MeshRecord())
    for record in (RECORD, MeshRecord(), RECORD):
        assert save(store, record) is None
        assert load(store) == Loaded(record)
    assert os.listdir(store.root / "tmp") == []
    assert (store.root / FILE).stat().st_mode & 0o777 == 0o600


def test_content_and_name_are_on_the_disk_before_it_counts(store, monkeypatch):
    did = []

    def sync(fd):
        did.append(os.readlink(f"/proc/self/fd/{fd}"))

    def rename(draft, target):
        did.append("rename")
        os.replace(draft, target)

    monkeypatch.setattr(module.os, "fsync", sync)
    monkeypatch.setattr(module.os, "rename", rename)
    save(store, RECORD)
    draft, *rest = did
    assert Path(draft).parent == store.root / "tmp"
    assert rest == ["rename", str(store.root)]


@pytest.mark.parametrize("act", ["fsync", "rename"])
def test_a_kill_while_saving_leaves_the_old_record_or_the_new(store, monkeypatch, act):
    save(store, MeshRecord())
    monkeypatch.setattr(module.os, act, lambda *_: pytest.fail("killed here"))
    with pytest.raises(pytest.fail.Exception):
        save(store, RECORD)
    monkeypatch.undo()
    assert load(store).record in (MeshRecord(), RECORD)
    assert save(store, RECORD) is None
    assert load(store).record == RECORD


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_refusal_and_leaves_what_was_there(store, monkeypatch, number):
    def full(fd):
        raise OSError(number, os.strerror(number))

    save(store, RECORD)
    monkeypatch.setattr(module.os, "fsync", full)
    refusal = save(store, MeshRecord())
    assert isinstance(refusal, Refusal)
    assert refusal.code == Code.IO_FAILURE
    assert os.strerror(number) in refusal.msg
    assert load(store).record == RECORD
    assert os.listdir(store.root / "tmp") == []


def test_another_fault_of_the_disk_goes_up(store, monkeypatch):
    def broken(fd):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(module.os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        save(store, RECORD)


def test_a_state_directory_that_vanished_is_made_again(tmp_path):
    store = Store(tmp_path / "never made")
    assert save(store, RECORD) is None
    assert load(store).record == RECORD


# --- what is no record


def sealed(**changes):
    body = orjson.loads(WHOLE) | changes
    del body["crc32"]
    return orjson.dumps({**body, "crc32": zlib.crc32(orjson.dumps(body))})


DAMAGES = [
    (b"", "empty"),
    (b"\0" * 100, "not JSON"),
    (b"[]", "not a JSON object"),
    (WHOLE[:-40], "not JSON"),
    (WHOLE.replace(b"10.244.1.0", b"10.244.2.0"), "checksum"),
    (sealed(format="headcni/host/1"), "expected"),
    (sealed(announced=["10.244.1.5/24"]), "malformed"),
    (sealed(announced=[5]), "malformed"),
    (sealed(announced=None), "malformed"),
    (sealed(prefs=[]), "malformed"),
    (sealed(prefs={"RouteAll": {"before": False}}), "malformed"),
    (sealed(prefs={"RouteAll": True}), "malformed"),
]


@pytest.mark.parametrize(("raw", "why"), DAMAGES)
def test_damage_goes_into_quarantine_and_is_told(store, raw, why):
    (store.root / FILE).write_bytes(raw)
    loaded = load(store)
    assert loaded.record == MeshRecord()
    assert loaded.trouble.code == Code.IO_FAILURE
    assert why in loaded.trouble.msg
    assert (store.root / "quarantine" / FILE).read_bytes() == raw
    assert why in (store.root / "quarantine" / f"{FILE}.reason").read_text()
    assert save(store, RECORD) is None
    assert load(store) == Loaded(RECORD)


def test_what_cannot_be_read_may_be_good_and_is_left_where_it_is(store):
    (store.root / FILE).mkdir()
    loaded = load(store)
    assert loaded.record is None
    assert "Is a directory" in loaded.trouble.msg
    assert (store.root / FILE).is_dir()


def test_a_newer_version_is_left_alone_and_nothing_may_be_done(store):
    raw = b'{"format": "headcni/mesh/2", "anything": []}'
    (store.root / FILE).write_bytes(raw)
    loaded = load(store)
    assert loaded.record is None
    assert "headcni/mesh/2" in loaded.trouble.msg
    assert (store.root / FILE).read_bytes() == raw
    assert store.quarantined() == 0


def test_every_flipped_byte_is_noticed_or_changes_nothing():
    for position in range(len(WHOLE)):
        raw = bytearray(WHOLE)
        raw[position] ^= 0x11
        try:
            assert decode(bytes(raw)) == RECORD, position
        except (Damaged, UnknownVersion):
            pass
