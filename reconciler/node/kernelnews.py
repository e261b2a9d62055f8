"""Whether the kernel's links, addresses, routes or rules have changed since the last time it was asked.

What keeps pod packets in the mesh must be looked at each second, and each look reads whole tables that nobody has
touched: a third of what a mesh cost at rest. The kernel tells each change to whoever listens, so an empty queue says
that a look would find what the last one found.

Only that something came is used, never what: a message says too little (a link that goes down takes its IPv4 routes
along without a word of them) and may be lost. So the queue may be as short as the kernel allows; one that ran over is
news, too. Whoever asks looks from time to time all the same, for what no message tells.
"""

from __future__ import annotations

import socket
from errno import ENOBUFS

_LINK, _RULE4, _RULE6 = 1, 8, 19
_ADDRESS4, _ROUTE4, _ADDRESS6, _ROUTE6 = 5, 7, 9, 11
_GROUPS = sum(1 << (group - 1) for group in (_LINK, _ADDRESS4, _ROUTE4, _RULE4, _ADDRESS6, _ROUTE6, _RULE6))


class KernelNews:
    """In the network namespace of the thread that makes it, for as long as it lives."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        self._socket.bind((0, _GROUPS))

    def close(self) -> None:
        self._socket.close()

    def heard(self) -> bool:
        """To be asked before the look, so that what changes meanwhile is heard the next time."""
        anything = False
        while True:
            try:
                self._socket.recv(1)  # and the rest of the message is gone
            except BlockingIOError:
                return anything
            except OSError as error:
                if error.errno != ENOBUFS:
                    raise
            anything = True
