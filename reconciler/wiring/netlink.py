"""A netlink socket, and many requests in one send.

The kernel carries out a batch inside `send` and has answered it when `send` returns, so nothing here ever waits for
an answer: not even a bug can make it hang. Only the last request asks for an acknowledgement; each that fails says so
anyway. A failure does not stop the requests behind it: the first is the cause, the others may be consequences.

A socket is made for each call and costs 12 µs. Rejected: a long-lived one, which needs a lock or one per thread, and
may hold the unread answers of a call that died.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from reconciler.wiring import codec as nl
from reconciler.wiring.requests import Failure, Request

_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT = 270, 10, 11, 12
_ERROR, _DONE = 2, 3
_CAPPED, _TLVS, _INTERRUPTED = 0x100, 0x200, 0x10
_NOTE = 1
_BUFFER = 1 << 16
_BATCH = 16  # requests whose answers fit the default receive buffer four times
_TRIES = 5
_INT = struct.Struct("=i")


@dataclass(frozen=True, slots=True)
class Answer:
    failures: tuple[Failure, ...]
    replies: dict[int, bytes]  # by the request's place in the batch


class Netlink:
    """In the network namespace of the thread that makes it, for as long as it lives."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC)
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        with contextlib.suppress(OSError):  # Linux 4.19 does not filter; replies.py does so anyway
            self._socket.setsockopt(_SOL_NETLINK, _STRICT, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def ask(self, requests: Sequence[Request]) -> Answer:
        failures: list[Failure] = []
        replies: dict[int, bytes] = {}
        for start in range(0, len(requests), _BATCH):
            self._ask_batch(requests, range(start, min(start + _BATCH, len(requests))), failures, replies)
        return Answer(tuple(failures), replies)

    def _ask_batch(
        self, requests: Sequence[Request], places: range, failures: list[Failure], replies: dict[int, bytes]
    ) -> None:
        last = places[-1]
        self._socket.send(b"".join([_encode(requests[at], at, nl.ACK if at == last else 0) for at in places]))
        answered = False
        while not answered:
            for kind, flags, at, body in self._receive():
                if kind != _ERROR:
                    replies[at] = body
                    continue
                errno = _errno(body)
                if errno:
                    failures.append(Failure(requests[at], errno, _note(body, flags)))
                answered = answered or at == last

    def dump(self, request: Request) -> list[bytes]:
        """Again, where changes interrupted it, but not for ever: whatever was there throughout is in it."""
        for _ in range(_TRIES):
            bodies, consistent = self._dump_once(request)
            if consistent:
                break
        return bodies

    def _dump_once(self, request: Request) -> tuple[list[bytes], bool]:
        self._socket.send(_encode(request, 0, 0))
        bodies: list[bytes] = []
        consistent = True
        while True:
            for kind, flags, _, body in self._receive():
                consistent = consistent and not flags & _INTERRUPTED
                if kind not in (_ERROR, _DONE):
                    bodies.append(body)
                elif errno := _errno(body):
                    raise OSError(errno, f"{request.what}: {os.strerror(errno)}")
                elif kind == _DONE:
                    return bodies, consistent

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Type, flags, sequence number and body of each message in one packet."""
        packet = self._socket.recv(_BUFFER, socket.MSG_DONTWAIT)
        offset = 0
        while offset < len(packet):
            length, kind, flags, sequence, _ = nl.HEADER.unpack_from(packet, offset)
            yield kind, flags, sequence, packet[offset + nl.HEADER.size : offset + length]
            offset += (length + 3) & ~3


def _encode(request: Request, sequence: int, flags: int) -> bytes:
    length = nl.HEADER.size + len(request.body)
    return nl.HEADER.pack(length, request.kind, request.flags | nl.REQUEST | flags, sequence, 0) + request.body


def _errno(body: bytes) -> int:
    code: int = _INT.unpack_from(body)[0]
    return -code


def _note(body: bytes, flags: int) -> str:
    """The kernel's explanation follows the errno and (we ask for no more) the header of the request it is about."""
    if not (flags & _TLVS and flags & _CAPPED):
        return ""
    return nl.attributes(body, _INT.size + nl.HEADER.size).get(_NOTE, b"").rstrip(b"\0").decode(errors="replace")
