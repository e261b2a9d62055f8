"""The other nodes of a tailnet, in one process: a stand-in tailscaled that tells of them, and their daemons' answers.

    python -m benchmarks.mesh_world --socket PATH --peers 1000 --churn 50 [--version 1.98.0]

Peers go on and off line and change their endpoints, `--churn` times a second in all. Whoever asks any of them by the
probe's datagram is answered that its prefix is accepted, if Headscale would have it so. Prints `ready`, and serves
until SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import signal
import socket
from pathlib import Path

from fixtures.localapi import LocalApiServer, Node
from reconciler.mesh.model import Sight
from reconciler.mesh.probe import DEFAULT_PORT
from reconciler.mesh.wire import MAX_BYTES, Answer, Question, pack, unpack

IPV6_FREEBIND = 78
CONTROL, CONTROL_PORT = "100.64.0.200", 8080  # an address that is routed here
BATCH = 1.0  # seconds; what Headscale takes for an approval
_PACKET_INFO = {  # level, the option that asks for it, its type: who a datagram was sent to, in Python only in part
    socket.AF_INET: (socket.IPPROTO_IP, 8, 8),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, socket.IPV6_PKTINFO),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mesh_world", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--peers", type=int, required=True)
    parser.add_argument("--churn", type=float, default=0.0, metavar="PER_SECOND")
    parser.add_argument("--version", default=Node.version)
    asyncio.run(_serve(parser.parse_args()))


async def _serve(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    node = Node(version=options.version, lag=BATCH, auto_approve=True)
    async with LocalApiServer(options.socket, node):
        control = await asyncio.start_server(_hang_up, port=CONTROL_PORT)  # it is looked whether somebody is there
        node.be_joined(f"http://{CONTROL}:{CONTROL_PORT}")
        node.add_peers(options.peers)
        for family in _PACKET_INFO:
            _answer_probes(family, node)
        churn = asyncio.create_task(_churn(node, options.churn))
        print("ready", flush=True)
        await stop.wait()
        churn.cancel()
        control.close()


def _hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def _churn(node: Node, rate: float) -> None:
    names = itertools.cycle(list(node.peers))
    for number in itertools.count():
        if not rate:
            return
        await asyncio.sleep(1 / rate)
        peer = node.peers[next(names)]
        if number % 2:
            node.set_peer(peer.name, direct=f"192.0.2.{number % 250}:{1024 + number % 60000}")
        else:
            node.set_peer(peer.name, online=not peer.online)


def _answer_probes(family: socket.AddressFamily, node: Node) -> None:
    level, asks_for, kind = _PACKET_INFO[family]
    ours = socket.socket(family, socket.SOCK_DGRAM)
    ours.setblocking(False)
    ours.setsockopt(level, asks_for, 1)
    if family == socket.AF_INET6:
        ours.setsockopt(level, socket.IPV6_V6ONLY, 1)
        ours.setsockopt(level, IPV6_FREEBIND, 1)  # or it would send from no address that is only routed here
    ours.bind(("", DEFAULT_PORT))
    asyncio.get_running_loop().add_reader(ours, _answer_one, ours, level, kind, node)


def _answer_one(ours: socket.socket, level: int, kind: int, node: Node) -> None:
    datagram, info, _, asker = ours.recvmsg(MAX_BYTES, 128)
    message = unpack(datagram)
    if message is None or not isinstance(message[1], Question):
        return
    nonce, question = message
    served = set(node.serving)
    sights = tuple(Sight(str(each) in served, str(each) in served) for each in question.prefixes)
    body = pack(nonce, Answer("somebody", (), sights))
    sent_to = next(content for at, what, content in info if (at, what) == (level, kind))
    ours.sendmsg([body], [(level, kind, _from(sent_to))], 0, asker)


def _from(sent_to: bytes) -> bytes:
    """To be answered from where it was sent to: the index of the interface is left open."""
    if len(sent_to) == 12:  # IPv4: index, local address, header's address
        return bytes(4) + sent_to[8:12] + bytes(4)
    return sent_to[:16] + bytes(4)


if __name__ == "__main__":
    main()
