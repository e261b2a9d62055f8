"""Records and intents on disk: round trips, golden files of each released version, damage, the future."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import BOOT, CONTAINER, STATUS, in_state, requested, stuck

from cni import plugin
from cni.spec import Refusal, Verb
from reconciler.answers import failure, success
from reconciler.operate.status import decode_status, encode_status
from statemachine import attachment, intent
from statemachine.attachment import MAX_VISITS, Damaged, State, UnknownVersion, Visit, bounded, decode, encode
from statemachine.intent import IntentName, parse_name

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden"
KEY = f"{CONTAINER}@eth0"
STEM = f"00000000003600000000.4711-{KEY}"


def golden(name):
    return (GOLDEN / name).read_bytes()


# --- golden files


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("attachment-1.json", in_state(State.ADVERTISED)),
        ("attachment-1-stuck.json", stuck()),
        ("attachment-1-closed.json", in_state(State.TORN_DOWN)),
    ],
)
def test_a_record_of_version_1_is_read_and_written_as_it_was(name, record):
    assert decode(golden(name)) == record
    assert encode(record) == golden(name)


def test_a_status_of_version_1_is_read_and_written_as_it_was():
    assert decode_status(golden("status-1.json")) == STATUS
    assert encode_status(STATUS) == golden("status-1.json")


def test_the_plugin_finds_its_keys_in_the_status_without_parsing_it():
    keys = plugin.top_level(golden("status-1.json"), (b"cni_code", b"cni_msg", b"cni_beat"))
    assert keys == {
        b"cni_code": b"50",
        b"cni_msg": orjson.dumps(STATUS.cni_msg),
        b"cni_beat": str(STATUS.cni_beat).encode(),
    }


def env_of(verb):
    return {
        b"CNI_COMMAND": verb,
        b"CNI_CONTAINERID": CONTAINER.encode(),
        b"CNI_NETNS": b"/run/netns/cni-3f1a",
        b"CNI_IFNAME": b"eth0",
        b"CNI_PATH": b"/opt/cni/bin",
        b"CNI_ARGS": b"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0",
        b"TRACEPARENT": b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        b"HOME": b"/root",
    }


@pytest.mark.parametrize(
    ("name", "verb", "made"),
    [("intent-1-add.json", b"ADD", 3600), ("intent-1-del-not-utf8.json", b"DEL", 3700)],
)
def test_the_plugin_still_writes_intents_of_version_1(monkeypatch, name, verb, made):
    monkeypatch.setattr(plugin, "_boot_id", BOOT.encode)
    monkeypatch.setattr(plugin, "_plugin_name", lambda: b"headcni")
    monkeypatch.setattr(plugin, "time", SimpleNamespace(time_ns=lambda: 1795260754250000000))
    decoded = intent.decode(parse_name(f"{STEM}.{verb.decode()}.json"), golden(name))
    written = plugin._intent(verb, env_of(verb), decoded.config, made * 10**9, (made + 30) * 10**9)
    assert written == golden(name)


def test_an_intent_of_version_1_is_understood():
    decoded = intent.decode(parse_name(f"{STEM}.ADD.json"), golden("intent-1-add.json"))
    assert (decoded.key, decoded.verb, decoded.plugin, decoded.boot_id) == (KEY, Verb.ADD, "headcni", BOOT)
    assert (decoded.deadline_ns, decoded.wall_ns) == (3630 * 10**9, 1795260754250000000)
    assert decoded.env["CNI_PATH"] == "/opt/cni/bin"
    assert "HOME" not in decoded.env
    assert orjson.loads(decoded.config)["name"] == "tailscale-cni"


def test_a_configuration_that_is_not_utf8_arrives_as_it_was():
    decoded = intent.decode(parse_name(f"{STEM}.DEL.json"), golden("intent-1-del-not-utf8.json"))
    assert decoded.config == b'{"name": "\xff"}'


@pytest.mark.parametrize("version", ["0.4.0", "1.1.0"])
def test_answers_of_version_1(version):
    assert success(in_state(State.WIRED), version) == golden(f"answer-{version}.result")


def test_an_error_answer():
    refusal = Refusal(100, "the pool 10.244.1.0/24 is empty", "253 addresses: 253 held")
    assert failure(refusal, "1.0.0") == golden("answer.error")


# --- round trips


@pytest.mark.parametrize("state", State)
def test_a_record_survives_the_disk_in_every_state(state):
    assert decode(encode(in_state(state))) == in_state(state)


@given(
    cause=st.text(st.characters(exclude_categories=("Cs",)), max_size=40),
    at=st.floats(min_value=0, max_value=4e9),
    config=st.dictionaries(
        st.text(st.characters(exclude_categories=("Cs",))),
        st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False),
    ),
)
def test_any_text_number_and_configuration_survives_the_disk(cause, at, config):
    record = requested(since=at, history=(Visit(State.ALLOCATED, at, at / 7, cause),), config=config)
    assert decode(encode(record)) == record


def test_a_flapping_attachment_keeps_its_first_and_latest_visits():
    visits = tuple(Visit(State.WIRED, float(number), 0.0, "") for number in range(200))
    kept = [visit.at for visit in bounded(visits)]
    assert len(kept) == MAX_VISITS
    assert kept[:8] == list(range(8))
    assert kept[8:] == list(range(200 - MAX_VISITS + 8, 200))


# --- damage


WHOLE = encode(in_state(State.ADVERTISED))


@pytest.mark.parametrize("length", range(0, len(WHOLE) - 1, 97))
def test_a_truncated_record_is_damaged(length):
    with pytest.raises(Damaged):
        decode(WHOLE[:length])


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_damage_or_changes_nothing(position, flip):
    raw = bytearray(WHOLE)
    raw[position] ^= flip
    try:
        assert decode(bytes(raw)) == in_state(State.ADVERTISED)  # white space
    except (Damaged, UnknownVersion):
        pass


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "empty"),
        (b"\0" * 100, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "format is None"),
        (b'{"format": 7}', "format is 7"),
        (b'{"format": "other/attachment/1"}', "expected 'headcni/attachment/1'"),
        (b'{"format": "headcni/attachment/0"}', "expected"),
        ('{"format": "headcni/attachment/²"}'.encode(), "expected"),
        (b'{"format": "headcni/attachment/1"}', "checksum"),
    ],
)
def test_what_is_no_record_says_why(raw, why):
    with pytest.raises(Damaged, match=why):
        decode(raw)


def test_an_edited_record_is_noticed():
    with pytest.raises(Damaged, match="checksum"):
        decode(WHOLE.replace(b"10.244.1.7", b"10.244.1.8"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("state", "flying"), ("dns", []), ("link", {"host": "x"}), ("netns", 5), ("addresses", None), ("routes", ["x"])],
)
def test_a_malformed_field_with_a_valid_checksum_is_damage(name, value):
    import zlib

    body = orjson.loads(WHOLE)
    del body["crc32"]
    body[name] = value
    body["crc32"] = zlib.crc32(orjson.dumps(body))
    with pytest.raises(Damaged, match="malformed"):
        decode(orjson.dumps(body))


def test_a_newer_version_is_not_damage():
    with pytest.raises(UnknownVersion, match="headcni/attachment/2"):
        decode(b'{"format": "headcni/attachment/2", "anything": []}')
    with pytest.raises(UnknownVersion):
        intent.decode(parse_name(f"{STEM}.DEL.json"), b'{"format": "headcni/intent/12"}')
    with pytest.raises(UnknownVersion):
        decode_status(b'{"format": "headcni/status/2"}')


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"format": "headcni/intent/1"}',
        golden("intent-1-add.json").replace(b"3630", b'"x"', 1),
    ],
)
def test_a_damaged_intent_says_so(raw):
    with pytest.raises(Damaged):
        intent.decode(parse_name(f"{STEM}.ADD.json"), raw)


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b'{"format": "headcni/status/1"}', b'{"format": "headcni/status/1", "pools": 5}']
)
def test_a_damaged_status_says_so(raw):
    with pytest.raises(Damaged):
        decode_status(raw)


# --- intents


def test_an_empty_del_says_it_all_by_its_name():
    decoded = intent.decode(parse_name(f"{STEM}.DEL.json"), b"")
    assert (decoded.key, decoded.verb, decoded.deadline_ns) == (KEY, Verb.DEL, None)
    assert not decoded.expired(2**62, "another")


@pytest.mark.parametrize("ifname", ["eth0", "eth0.100", "a@b", "-"])
def test_names_of_intents_are_read_back(ifname):
    name = parse_name(f"00000000000000000042.7-abc.d-e@{ifname}.ADD.json")
    assert name == IntentName(f"00000000000000000042.7-abc.d-e@{ifname}", 42, "abc.d-e", ifname, Verb.ADD)
    assert parse_name(name.file) == name


@pytest.mark.parametrize(
    "file",
    [
        "",
        "x",
        ".json",
        "abc@eth0.json",
        "1.2-abc@eth0.ADD",
        "1.2-abc@eth0.PUT.json",
        "1.2-abc.ADD.json",
        "x.2-a@b.ADD.json",
        "²-a@b.ADD.json",
    ],
)
def test_foreign_files_are_no_intents(file):
    assert parse_name(file) is None


def made(verb, deadline_ns, boot_id=BOOT):
    return replace(intent.Intent(parse_name(f"{STEM}.{verb}.json")), deadline_ns=deadline_ns, boot_id=boot_id)


@pytest.mark.parametrize(
    ("call", "expired"),
    [
        (made("ADD", 101), False),
        (made("ADD", 100), True),
        (made("ADD", 101, boot_id="another"), True),
        (made("ADD", 101, boot_id=""), False),
        (made("CHECK", 99), True),
        (made("DEL", 99), False),
        (made("DEL", 99, boot_id="another"), False),
    ],
)
def test_only_a_del_outlives_its_deadline_and_its_boot(call, expired):
    assert call.expired(100, BOOT) is expired


def test_file_names_of_records():
    assert attachment.file_name(KEY) == f"{CONTAINER}@eth0.json"
