"""One UDP socket at one address of this node.

It may be bound before the address exists, and outlives it (IP_FREEBIND): tailscaled makes its interface anew at every
start. Pods can reach it, so what they send must cost little: the kernel drops whatever lacks the magic, and of the
rest only so much is read that a flood costs a few percent of a processor. What then does not find room, the kernel
drops, too.

Rejected: asyncio's datagram transport, which cannot stop reading, and tells a failed send apart from its datagram.
Binding to the interface or to the wildcard: the first dies with the interface, the second does not say which
of the node's addresses was meant. ICMP errors are not asked for: they would come up in the next send to somebody else.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import socket
import struct
from collections.abc import Callable

from reconciler.mesh.wire import MAGIC, MAX_BYTES
from reconciler.settings import IpAddress

MOST = 32  # datagrams read in each
WINDOW = 0.05  # seconds; a node is asked a few times in a second

_IP_FREEBIND = 15  # these three are not in Python's socket module
_IPV6_FREEBIND = 78
_SO_ATTACH_FILTER = 26
_BEGINS_WITH_MAGIC = (  # classic BPF: operation, jump if true, jump if false, operand
    (0x20, 0, 0, 8),  # load the word behind the UDP header
    (0x15, 0, 1, int.from_bytes(MAGIC, "big")),
    (0x06, 0, 0, 0xFFFFFFFF),  # keep
    (0x06, 0, 0, 0),  # drop
)

Received = Callable[["Endpoint", bytes, str, int], None]  # what, from which host and port


class Endpoint:
    """Made inside the event loop; OSError if it cannot be bound."""

    def __init__(self, address: IpAddress, port: int, received: Received) -> None:
        self.address = address
        self._received = received
        self._socket = _bound(address, port)
        self._loop = asyncio.get_running_loop()
        self._rest: asyncio.TimerHandle | None = None
        self._window_began = float("-inf")
        self._left = 0
        self._loop.add_reader(self._socket, self._read)

    def send(self, datagram: bytes, target: IpAddress, port: int) -> str:
        """Why it did not leave; empty if it did."""
        try:
            self._socket.sendto(datagram, (str(target), port))
        except OSError as error:
            return f"{error.strerror} ({errno.errorcode.get(error.errno or 0, error.errno)})"
        return ""

    def close(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        now = self._loop.time()
        if now - self._window_began >= WINDOW:
            self._window_began, self._left = now, MOST
        while self._left > 0:
            try:
                datagram, sender = self._socket.recvfrom(MAX_BYTES + 1)
            except OSError:
                return  # nothing waits; or an error about something sent before, and its silence tells the same
            self._left -= 1
            self._received(self, datagram, sender[0], sender[1])
        self._loop.remove_reader(self._socket)
        again_at = self._window_began + WINDOW
        self._rest = self._loop.call_at(again_at, self._loop.add_reader, self._socket, self._read)


def _bound(address: IpAddress, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        made.setblocking(False)
        if address.version == 4:
            made.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        else:
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        _attach_filter(made)
        made.bind((str(address), port))
    except OSError:
        made.close()
        raise
    return made


def _attach_filter(made: socket.socket) -> None:
    program = b"".join(struct.pack("HBBI", *each) for each in _BEGINS_WITH_MAGIC)
    buffer = ctypes.create_string_buffer(program)
    made.setsockopt(
        socket.SOL_SOCKET,
        _SO_ATTACH_FILTER,
        struct.pack("HP", len(_BEGINS_WITH_MAGIC), ctypes.addressof(buffer)),
    )
