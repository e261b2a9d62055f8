"""The probe's datagrams as bytes: a question, an answer, a hint. Pure; nothing here knows a socket.

A header (magic, version, kind, nonce) is followed by, in a question, the prefixes of the asker and padding; in an
answer, who answers, its own prefixes, and what it sees of each asked prefix, in the order of the question. A hint
has nothing more: it says "look again", and nothing else of it could be believed.

Invariants: a question is at least as long as the longest answer to it, so nobody is made to send more than was sent
to it. Every datagram fits the smallest MTU that IPv6 allows, so none is cut into fragments. Whatever is not exactly
as said here is `None`, never an exception: anybody may send anything to an open port.

JSON was rejected: the length of an answer must be bounded before it is made, and its reader believes too much.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network

from reconciler.mesh.model import Sight
from reconciler.settings import Network

MAGIC = b"HCNI"
VERSION = 1
MAX_BYTES = 1200  # with the headers of IPv6 and UDP less than 1280
MAX_PREFIXES = 16  # asked for, and announced
NONCE_BYTES = 16
MAX_NAME = 63  # a label of the DNS
MAX_INSTEAD = 48  # a longer name is cut: sixteen of 63 bytes would not fit

_HEADER = struct.Struct(f"!4sBB{NONCE_BYTES}s")
_QUESTION, _ANSWER, _HINT = 1, 2, 3
_ACCEPTS, _BLIND = 1, 2  # flags of an answer
_ACCEPTED, _ROUTED = 1, 2  # flags of a sight
_PREFIX_BYTES = 2 + 16  # family, length, address


@dataclass(frozen=True, slots=True)
class Question:
    prefixes: tuple[Network, ...]  # of the asker; those after the first MAX_PREFIXES are not asked for


@dataclass(frozen=True, slots=True)
class Answer:
    name: str
    announces: tuple[Network, ...]  # its own pod prefixes; told are the first MAX_PREFIXES
    sights: tuple[Sight, ...]  # one for each asked prefix, in their order
    accepts_routes: bool = True
    blind: bool = False  # it has lost the control server, so what it sees may be long over


@dataclass(frozen=True, slots=True)
class Hint:
    """Look again."""


Body = Question | Answer | Hint


def question_bytes(prefixes: int) -> int:
    """The length of a question for so many prefixes: that of the longest answer to it."""
    return _HEADER.size + 1 + (1 + MAX_NAME) + (1 + MAX_PREFIXES * _PREFIX_BYTES) + 1 + prefixes * (2 + MAX_INSTEAD)


def pack(nonce: bytes, body: Body) -> bytes:
    if isinstance(body, Question):
        content = _pack_prefixes(body.prefixes)
        size = question_bytes(content[0])
        return (_HEADER.pack(MAGIC, VERSION, _QUESTION, nonce) + content).ljust(size, b"\0")
    if isinstance(body, Answer):
        sights = body.sights[:MAX_PREFIXES]
        return b"".join(
            (
                _HEADER.pack(MAGIC, VERSION, _ANSWER, nonce),
                bytes(((_ACCEPTS if body.accepts_routes else 0) | (_BLIND if body.blind else 0),)),
                _pack_text(body.name, MAX_NAME),
                _pack_prefixes(body.announces),
                bytes((len(sights),)),
                *map(_pack_sight, sights),
            )
        )
    return _HEADER.pack(MAGIC, VERSION, _HINT, nonce)


def unpack(datagram: bytes) -> tuple[bytes, Body] | None:
    """The nonce and what it belongs to."""
    if not _HEADER.size <= len(datagram) <= MAX_BYTES:
        return None
    magic, version, kind, nonce = _HEADER.unpack_from(datagram)
    if magic != MAGIC or version != VERSION:
        return None
    try:
        return nonce, _unpack_body(kind, _Reader(datagram, _HEADER.size), len(datagram))
    except ValueError:
        return None


def _unpack_body(kind: int, reader: _Reader, size: int) -> Body:
    if kind == _QUESTION:
        question = Question(reader.prefixes())
        if size < question_bytes(len(question.prefixes)):
            raise ValueError("shorter than its answer may be")
        return question  # the rest is padding
    body: Body
    if kind == _ANSWER:
        flags = reader.flags(_ACCEPTS | _BLIND)
        name, announces = reader.text(MAX_NAME), reader.prefixes()
        body = Answer(name, announces, tuple(reader.sight() for _ in range(reader.count())), flags & _ACCEPTS != 0)
        body = replace(body, blind=flags & _BLIND != 0)
    elif kind == _HINT:
        body = Hint()
    else:
        raise ValueError("unknown kind")
    reader.end()
    return body


def _pack_prefixes(prefixes: Sequence[Network]) -> bytes:
    told = prefixes[:MAX_PREFIXES]
    packed = (bytes((each.version, each.prefixlen)) + each.network_address.packed for each in told)
    return bytes((len(told),)) + b"".join(packed)


def _pack_sight(sight: Sight) -> bytes:
    flags = (_ACCEPTED if sight.accepted else 0) | (_ROUTED if sight.routed else 0)
    return bytes((flags,)) + _pack_text(sight.instead, MAX_INSTEAD)


def _pack_text(text: str, limit: int) -> bytes:
    printable = "".join(each if each.isprintable() else "?" for each in text)
    whole_letters = printable.encode()[:limit].decode(errors="ignore").encode()
    return bytes((len(whole_letters),)) + whole_letters


class _Reader:
    """Takes values off a datagram; ValueError for whatever may not be."""

    def __init__(self, datagram: bytes, at: int) -> None:
        self._datagram = datagram
        self._at = at

    def take(self, size: int) -> bytes:
        taken = self._datagram[self._at : self._at + size]
        if len(taken) < size:
            raise ValueError("ends too early")
        self._at += size
        return taken

    def end(self) -> None:
        if self._at != len(self._datagram):
            raise ValueError("goes on after its end")

    def flags(self, known: int) -> int:
        flags = self.take(1)[0]
        if flags & ~known:
            raise ValueError("unknown flag")
        return flags

    def count(self) -> int:
        count = self.take(1)[0]
        if count > MAX_PREFIXES:
            raise ValueError("too many prefixes")
        return count

    def text(self, limit: int) -> str:
        size = self.take(1)[0]
        text = self.take(size).decode()
        if size > limit or not text.isprintable():  # it will be shown to people
            raise ValueError("no name")
        return text

    def prefixes(self) -> tuple[Network, ...]:
        return tuple(self._prefix() for _ in range(self.count()))

    def _prefix(self) -> Network:
        version, length = self.take(2)
        if version == 4:
            return IPv4Network((self.take(4), length))
        if version == 6:
            return IPv6Network((self.take(16), length))
        raise ValueError("unknown family")

    def sight(self) -> Sight:
        flags = self.flags(_ACCEPTED | _ROUTED)
        return Sight(flags & _ACCEPTED != 0, flags & _ROUTED != 0, self.text(MAX_INSTEAD))
