"""The probe's datagrams: what is packed comes out again, whatever else comes in is nothing, no answer is longer."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.mesh.model import Sight
from reconciler.mesh.wire import (
    MAX_BYTES,
    MAX_INSTEAD,
    MAX_NAME,
    MAX_PREFIXES,
    Answer,
    Hint,
    Question,
    pack,
    question_bytes,
    unpack,
)

NONCE = bytes(range(16))
V4, V6 = ip_network("10.244.1.0/24"), ip_network("fd00:10:244:1::/64")
SIGHT = Sight(accepted=True, routed=False, instead="node-7")

nonces = st.binary(min_size=16, max_size=16)
networks = st.ip_addresses().flatmap(
    lambda address: st.integers(0, address.max_prefixlen).map(
        lambda length: ip_network(f"{address}/{length}", strict=False)
    )
)
many_networks = st.lists(networks, max_size=MAX_PREFIXES).map(tuple)


def names(limit):
    printable = st.text(st.characters(exclude_categories=("C", "Z")), max_size=limit)
    return printable.filter(lambda text: text.isprintable() and len(text.encode()) <= limit)


sights = st.builds(Sight, accepted=st.booleans(), routed=st.booleans(), instead=names(MAX_INSTEAD))
answers = st.builds(
    Answer,
    name=names(MAX_NAME),
    announces=many_networks,
    sights=st.lists(sights, max_size=MAX_PREFIXES).map(tuple),
    accepts_routes=st.booleans(),
)
bodies = st.one_of(st.builds(Question, many_networks), answers, st.just(Hint()))


@given(nonces, bodies)
def test_what_is_packed_comes_out_again(nonce, body):
    datagram = pack(nonce, body)
    assert len(datagram) <= MAX_BYTES
    assert unpack(datagram) == (nonce, body)


@given(many_networks, answers)
def test_no_answer_is_longer_than_its_question(prefixes, answer):
    fitting = Answer(answer.name, answer.announces, answer.sights[: len(prefixes)])
    assert len(pack(NONCE, fitting)) <= len(pack(NONCE, Question(prefixes)))


def test_the_longest_answer_fits_exactly():
    longest = Answer("n" * 200, (V6,) * 99, (Sight(True, True, "i" * 200),) * 99)
    assert len(pack(NONCE, longest)) == len(pack(NONCE, Question((V6,) * 99))) == question_bytes(MAX_PREFIXES)
    assert question_bytes(MAX_PREFIXES) <= MAX_BYTES


@given(st.binary(max_size=MAX_BYTES + 1))
def test_noise_is_nothing(noise):
    assert unpack(noise) is None


@given(st.sampled_from([1, 2, 3]), st.binary(max_size=MAX_BYTES))
def test_noise_behind_a_right_header_is_nothing_or_something_whole(kind, noise):
    message = unpack(b"HCNI" + bytes((1, kind)) + NONCE + noise)
    assert message is None or len(pack(*message)) <= MAX_BYTES


@given(bodies, st.data())
def test_one_changed_byte_never_raises(body, data):
    datagram = bytearray(pack(NONCE, body))
    datagram[data.draw(st.integers(0, len(datagram) - 1))] = data.draw(st.integers(0, 255))
    unpack(bytes(datagram))


@given(answers, st.data())
def test_a_part_of_an_answer_is_nothing(answer, data):
    datagram = pack(NONCE, answer)
    assert unpack(datagram[: data.draw(st.integers(0, len(datagram) - 1))]) is None


ANSWER = pack(NONCE, Answer("n2", (V4,), (SIGHT,)))
FLAGS = ANSWER.index(b"\x02n2") - 1


def with_byte(datagram, at, value):
    return datagram[:at] + bytes((value,)) + datagram[at + 1 :]


@pytest.mark.parametrize(
    "datagram",
    [
        pytest.param(with_byte(ANSWER, 0, ord("h")), id="another magic"),
        pytest.param(with_byte(ANSWER, 4, 2), id="a later version"),
        pytest.param(with_byte(ANSWER, 5, 4), id="an unknown kind"),
        pytest.param(with_byte(ANSWER, FLAGS, 0xFF), id="an unknown flag"),
        pytest.param(ANSWER + b"\0", id="more behind the end"),
        pytest.param(ANSWER.replace(b"n2", b"\x1b2"), id="a name that commands a terminal"),
        pytest.param(ANSWER.replace(b"n2", b"\xff\xff"), id="a name that is no UTF-8"),
        pytest.param(ANSWER.replace(bytes((10, 244, 1, 0)), bytes((10, 244, 1, 7))), id="a prefix with host bits"),
        pytest.param(ANSWER.replace(bytes((4, 24)), bytes((4, 33))), id="a prefix length of 33"),
        pytest.param(ANSWER.replace(bytes((4, 24)), bytes((5, 24))), id="an unknown family"),
        pytest.param(pack(NONCE, Hint()) + b"\0", id="a hint with something"),
        pytest.param(pack(NONCE, Question((V4,)))[:-1], id="a question shorter than its answer"),
        pytest.param(pack(NONCE, Question((V4,))).ljust(MAX_BYTES + 1, b"\0"), id="too long"),
        pytest.param(b"", id="empty"),
    ],
)
def test_dropped(datagram):
    assert unpack(ANSWER) is not None
    assert unpack(datagram) is None


def test_names_are_cut_at_a_letter_and_made_printable():
    message = unpack(pack(NONCE, Answer("a\x1b\ud800" + "é" * 40, (), ())))
    assert message is not None
    assert message[1].name == "a??" + "é" * 30


def test_of_too_many_prefixes_the_first_are_told():
    many = tuple(ip_network("10.0.0.0/16").subnets(new_prefix=24))
    assert unpack(pack(NONCE, Question(many))) == (NONCE, Question(many[:MAX_PREFIXES]))
