"""What the mesh tests ask of pods: who reaches whom, under which address, and how long nothing came through."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise, permutations

from fixtures.lab import Netns
from fixtures.mesh import Pod

ADDS = 15  # for a median
FOREIGN = ("0.0.0.0/0", "::/0", "172.30.0.0/24", "fd30::/64")  # an exit node's routes, and a person's subnets


def source_seen(sender: Netns, receiver: Netns, address: str, patience: float = 20) -> str:
    """Under which address a TCP connection from one namespace arrives in another; empty if none arrives."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with receiver.entered():
        server = socket.socket(family)
    with server:
        server.bind((address, 0))
        server.listen()
        server.settimeout(5)
        give_up = time.monotonic() + patience
        while time.monotonic() < give_up:
            if _connects(sender, family, server.getsockname()[:2], give_up):
                accepted, peer = server.accept()
                accepted.close()
                return str(peer[0])
    return ""


def _connects(sender: Netns, family: int, target: tuple[str, int], give_up: float) -> bool:
    """One try, which is not waited for longer than a lost first packet takes."""
    with sender.entered():
        client = socket.socket(family)
    with client:
        client.settimeout(min(4.0, max(0.1, give_up - time.monotonic())))
        try:
            client.connect(target)
        except OSError:
            time.sleep(0.1)
            return False
    return True


def wrong_pairs(pods: Sequence[Pod], patience: float = 20) -> list[str]:
    """Of all ordered pairs and both families: those where the receiver does not see the sender's own address. The
    patience is for all of them together."""
    give_up = time.monotonic() + patience
    wrong = []
    for sender, receiver in permutations(pods, 2):
        for own, target in ((sender.v4, receiver.v4), (sender.v6, receiver.v6)):
            seen = source_seen(sender.netns, receiver.netns, target, max(0.5, give_up - time.monotonic()))
            if seen != own:
                wrong.append(f"{sender} to {target}: seen as {seen or 'nobody'}")
    return wrong


def transferred(sender: Pod, receiver: Pod, count: int) -> int:
    """How many of that many bytes arrive by TCP within ten seconds."""
    with receiver.netns.entered():
        server = socket.create_server((receiver.v4, 0))
    with sender.netns.entered():
        client = socket.socket()
    with server, client, ThreadPoolExecutor() as other:
        client.settimeout(10)
        client.connect(server.getsockname())
        arriving = other.submit(_drain, server)
        client.sendall(bytes(count))
        client.close()
        return arriving.result()


def _drain(server: socket.socket) -> int:
    accepted, _ = server.accept()
    with accepted:
        accepted.settimeout(10)
        return sum(iter(lambda: len(accepted.recv(1 << 16)), 0))


class Pinging:
    """Five times a second, from one namespace to an address, as long as the block lasts."""

    def __init__(self, sender: Netns, address: str) -> None:
        self._process = sender.popen("ping", "-n", "-i", "0.2", address, stdout=subprocess.PIPE)
        self.sent = self.answered = 0
        self.longest_gap = 0.0  # seconds in which every ping was lost

    def __enter__(self) -> Pinging:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        output = self._process.communicate(timeout=10)[0].decode()
        counted = re.search(r"(\d+) packets transmitted, (\d+) received", output)
        assert counted, output
        self.sent, self.answered = map(int, counted.groups())
        numbers = [0, *(int(n) for n in re.findall(r"bytes from .*icmp_seq=(\d+)", output)), self.sent + 1]
        self.longest_gap = 0.2 * (max(b - a for a, b in pairwise(numbers)) - 1)


@contextmanager
def pinging_each_other(one: Pod, other: Pod) -> Iterator[tuple[Pinging, Pinging]]:
    with Pinging(one.netns, other.v4) as there, Pinging(other.netns, one.v4) as back:
        yield there, back


def eventually(holds: Callable[[], object], what: str, timeout: float) -> float:
    """The seconds it took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < timeout, f"not within {timeout} s: {what}"
        time.sleep(0.05)
    return time.monotonic() - began


def median(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]
