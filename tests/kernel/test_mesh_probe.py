"""The probe between two nodes, each a network namespace: both run in this process, in one event loop.

Each node has a gateway address on `lo`, as in its pod range, and a route to the other's.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from ipaddress import ip_address, ip_network

import pytest

from cni.spec import Code
from fixtures.lab import Lab
from reconciler.mesh import endpoint
from reconciler.mesh.model import Sight
from reconciler.mesh.ports import Echo, Unanswered
from reconciler.mesh.probe import ANSWERS_A_SECOND, HINTS_A_SECOND, Probe
from reconciler.mesh.wire import Answer, Hint, Question, pack, unpack

pytestmark = pytest.mark.kernel

PORT = 9472
NONCE = bytes(16)
PREFIXES = (ip_network("10.244.1.0/24"), ip_network("fd00:10:244:1::/64"))
GATEWAYS = {  # family → of the first node, of the second
    4: (ip_address("10.244.1.1"), ip_address("10.244.2.1")),
    6: (ip_address("fd00:10:244:1::1"), ip_address("fd00:10:244:2::1")),
}
A, B = GATEWAYS[4]
PATIENT, SHORT = 5.0, 0.15  # seconds: for what must come, and for what must not


@pytest.fixture(scope="module")
def lab():
    with Lab(2) as running:
        for node, own, other in zip(running.nodes, (0, 1), (1, 0), strict=True):
            peer = running.nodes[other]
            for family, gateways in GATEWAYS.items():
                node.run("ip", "address", "add", f"{gateways[own]}", "dev", "lo", *(["nodad"] if family == 6 else []))
                via = peer.address if family == 4 else peer.address6
                node.run("ip", "route", "add", f"{gateways[other]}", "via", via)
        yield running


@pytest.fixture
def nft(lab):
    """Rules of a chain of the second node, or the given one; gone after the test."""
    used = set()

    def add(hook, rule, node=lab.nodes[1]):
        used.add(node)
        node.run(
            "nft", "-f", "-", input=f"table inet t {{ chain c {{ type filter hook {hook} priority 0; {rule}; }}; }}"
        )

    yield add
    for node in used:
        node.run("nft", "delete", "table", "inet", "t")


def sees(_, prefixes):
    return Answer("n2", (ip_network("10.244.2.0/24"),), tuple(Sight(True, each.version == 4) for each in prefixes))


class Pair:
    """A probe on each node, the first one asking."""

    def __init__(self, lab, answer=sees, addresses=None):
        self.lab = lab
        self.hints = []
        self.asker = Probe(lambda *_: None, lambda source: None)
        self.witness = Probe(answer, self.hints.append)
        own = addresses or ([each[0] for each in GATEWAYS.values()], [each[1] for each in GATEWAYS.values()])
        self.problems = self.bind(0, own[0]) + self.bind(1, own[1])

    def bind(self, which, addresses):
        with self.lab.nodes[which].entered():
            return (self.asker, self.witness)[which].set_addresses(addresses)

    async def ask(self, within=PATIENT, target=B, source=A):
        return await self.asker.ask(source, target, PREFIXES, within)

    def close(self):
        self.asker.close()
        self.witness.close()


@pytest.fixture
def play(lab):
    """Runs a coroutine with a pair of probes. Nothing may reach the loop's handler of unhandled exceptions."""

    def run(script, **options):
        unhandled = []

        async def main():
            asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
            pair = Pair(lab, **options)
            with contextlib.closing(pair):
                assert pair.problems == ()
                await script(pair)

        asyncio.run(main())
        assert unhandled == []

    return run


def datagrams(lab, node=1, bind=B):
    """A plain socket on a node, for what a probe would not send."""
    with lab.nodes[node].entered():
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((str(bind), 0 if node == 0 else PORT))
    made.setblocking(False)
    return made


async def until(condition):
    for _ in range(int(PATIENT * 100)):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not come to that")


# --- asking


@pytest.mark.parametrize("family", [4, 6])
def test_an_answer_proves_delivery_and_carries_the_report(play, family):
    asked_by = []

    def answer(source, prefixes):
        asked_by.append(source)
        return sees(source, prefixes)

    async def script(pair):
        before = time.monotonic()
        source, target = GATEWAYS[family]
        echo = await pair.ask(source=source, target=target)
        assert isinstance(echo, Echo)
        assert before <= echo.report.at <= time.monotonic()
        assert 0 < echo.rtt_ms < PATIENT * 1000
        assert echo.report.name == "n2"
        assert echo.report.announces == (ip_network("10.244.2.0/24"),)
        assert echo.report.sights == {PREFIXES[0]: Sight(True, True), PREFIXES[1]: Sight(True, False)}
        assert asked_by == [source]
        assert pair.witness.counts == {"answered": 1}

    play(script, answer=answer)


def test_many_questions_at_once(play):
    async def script(pair):
        outcomes = await asyncio.gather(*(pair.ask(target=GATEWAYS[f][1], source=GATEWAYS[f][0]) for f in (4, 6) * 20))
        assert all(isinstance(each, Echo) for each in outcomes)
        assert pair.asker._waiting == {}

    play(script)


def test_a_drop_is_no_answer(play, nft):
    nft("input", f"udp dport {PORT} drop")

    async def script(pair):
        assert await pair.ask(SHORT) == Unanswered("no answer within 0.15 s")

    play(script)


def test_a_firewall_on_this_node_is_the_reason(play, nft, lab):
    nft("output", f"udp dport {PORT} drop", lab.nodes[0])

    async def script(pair):
        assert await pair.ask() == Unanswered("not sent: Operation not permitted (EPERM)")

    play(script)


@pytest.mark.parametrize("family", [4, 6])
def test_the_fence_is_the_reason(play, lab, family):
    source, target = GATEWAYS[family][0], ip_address("10.244.9.1" if family == 4 else "fd00:10:244:9::1")
    lab.nodes[0].run("ip", "route", "add", "unreachable", str(target), "metric", "4000")

    async def script(pair):
        assert await pair.ask(source=source, target=target) == Unanswered("not sent: No route to host (EHOSTUNREACH)")
        assert isinstance(await pair.ask(source=source, target=GATEWAYS[family][1]), Echo)  # that error is over

    try:
        play(script)
    finally:
        lab.nodes[0].run("ip", "route", "del", "unreachable", str(target), "metric", "4000")


def test_no_route_is_the_reason(play):
    async def script(pair):
        outcome = await pair.ask(target=ip_address("192.0.2.1"))
        assert outcome == Unanswered("not sent: Network is unreachable (ENETUNREACH)")

    play(script)


def test_icmp_errors_disturb_nothing(play):
    async def script(pair):
        pair.bind(1, [GATEWAYS[6][1]])  # nobody listens at B: the kernel there says so by ICMP
        assert isinstance(await pair.ask(SHORT), Unanswered)
        source, target = GATEWAYS[6]
        assert isinstance(await pair.ask(source=source, target=target), Echo)
        pair.bind(1, [B])
        assert isinstance(await pair.ask(), Echo)

    play(script)


def test_asking_from_an_address_that_is_not_listened_at(play):
    async def script(pair):
        assert await pair.ask(source=ip_address("10.9.9.9")) == Unanswered("not listening at 10.9.9.9")

    play(script)


def test_a_question_that_waits_ends_when_the_probe_is_closed(play):
    async def script(pair):
        pair.bind(1, [])
        waiting = asyncio.create_task(pair.ask(PATIENT))
        await asyncio.sleep(0)
        pair.close()
        assert await waiting == Unanswered("the probe was closed")

    play(script)


# --- what is not an answer to us


def test_late_and_repeated_answers_are_ignored(play, lab):
    async def script(pair):
        pair.bind(1, [])
        with datagrams(lab) as other:
            loop = asyncio.get_running_loop()
            late = asyncio.create_task(pair.ask(SHORT))
            question, asker = await loop.sock_recvfrom(other, 2000)
            assert isinstance(await late, Unanswered)
            nonce, body = unpack(question)
            other.sendto(pack(nonce, sees(None, body.prefixes)), asker)
            await until(lambda: pair.asker.counts["unasked"] == 1)

            asked = asyncio.create_task(pair.ask())
            question, asker = await loop.sock_recvfrom(other, 2000)
            nonce, body = unpack(question)
            for _ in range(2):
                other.sendto(pack(nonce, sees(None, body.prefixes)), asker)
            assert isinstance(await asked, Echo)
            await until(lambda: pair.asker.counts["unasked"] == 2)

    play(script)


@pytest.mark.parametrize("wrong", ["nonce", "address", "port", "count", "to another address"])
def test_an_answer_must_be_to_this_question_and_from_there(play, lab, wrong):
    async def script(pair):
        pair.bind(1, [])
        with datagrams(lab) as other, datagrams(lab, bind=lab.nodes[1].address) as elsewhere:
            asked = asyncio.create_task(pair.ask(2 * SHORT))
            question, asker = await asyncio.get_running_loop().sock_recvfrom(other, 2000)
            nonce, body = unpack(question)
            answer = sees(None, body.prefixes[: 1 if wrong == "count" else 2])
            if wrong == "to another address":
                pair.bind(0, [A, ip_address(lab.nodes[0].address)])
                asker = (lab.nodes[0].address, PORT)
            from_there = elsewhere if wrong == "address" else other
            if wrong == "port":
                with lab.nodes[1].entered():
                    from_there = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                from_there.bind((str(B), PORT + 1))
            from_there.sendto(pack(NONCE if wrong == "nonce" else nonce, answer), asker)
            from_there.close()
            assert isinstance(await asked, Unanswered)
            assert pair.asker.counts == {"unasked": 1}

    play(script)


# --- answering


def test_strangers_are_told_nothing(play):
    async def script(pair):
        assert isinstance(await pair.ask(SHORT), Unanswered)
        assert pair.witness.counts == {"from strangers": 1}

    play(script, answer=lambda *_: None)


def test_no_answer_is_longer_than_its_question(play, lab):
    def longest(_, prefixes):
        return Answer("n" * 100, (PREFIXES[1],) * 50, tuple(Sight(True, True, "i" * 100) for _ in prefixes))

    async def script(pair):
        pair.bind(0, [])
        with datagrams(lab, node=0, bind=A) as asker:
            for count in (0, 1, 2, 16):
                question = pack(NONCE, Question((PREFIXES[1],) * count))
                asker.sendto(question, (str(B), PORT))
                answer = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(asker, 2000), PATIENT)
                assert len(answer) == len(question)
                asker.sendto(question[:-1], (str(B), PORT))
            await until(lambda: pair.witness.counts["malformed"] == 4)

    play(script, answer=longest)


def test_the_malformed_is_counted_and_not_answered(play, lab):
    bad = [b"HCNI", b"HCNI" + os.urandom(40), pack(NONCE, Hint()) + b"x", b"HCNI".ljust(1400, b"\1")]

    async def script(pair):
        with datagrams(lab, node=0, bind=A) as sender:
            for each in bad:
                sender.sendto(each, (str(B), PORT))
            await until(lambda: pair.witness.counts["malformed"] == len(bad))
            assert pair.witness.counts == {"malformed": len(bad)}

    play(script)


def test_only_so_many_answers_in_a_second(lab):
    now = 5.0
    given = []

    def answer(source, prefixes):
        given.append(source)
        return sees(source, prefixes)

    async def script():
        nonlocal now
        witness = Probe(answer, lambda source: None, clock=lambda: now)
        asker = Probe(lambda *_: None, lambda source: None)
        with contextlib.closing(witness), contextlib.closing(asker):
            with lab.nodes[1].entered():
                witness.set_addresses([B])
            with lab.nodes[0].entered():
                asker.set_addresses([A])
            for _ in range(ANSWERS_A_SECOND // 20):
                await asyncio.gather(*(asker.ask(A, B, PREFIXES, PATIENT) for _ in range(20)))
            assert isinstance(await asker.ask(A, B, PREFIXES, SHORT), Unanswered)
            assert witness.counts == {"answered": ANSWERS_A_SECOND, "too many questions": 1}
            now += 1
            assert isinstance(await asker.ask(A, B, PREFIXES, PATIENT), Echo)

    asyncio.run(script())
    assert len(given) == ANSWERS_A_SECOND + 2  # who asks is looked at first, so that strangers use up nothing


FLOOD = """
import os, socket, sys, time
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagram, target = bytes.fromhex(sys.argv[1]), (sys.argv[2], int(sys.argv[3]))
print(flush=True)
while True:
    out.sendto(datagram, target)
"""


@contextlib.contextmanager
def flood(lab, datagram):
    process = lab.nodes[0].popen(sys.executable, "-c", FLOOD, datagram.hex(), str(B), str(PORT), stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.wait()


def test_a_flood_of_garbage_does_not_stop_answers(play, lab):
    async def script(pair):
        with flood(lab, os.urandom(300)):
            outcomes = [await pair.ask(1.0) for _ in range(20)]
        assert sum(isinstance(each, Echo) for each in outcomes) >= 18
        assert pair.witness.counts == {"answered": sum(isinstance(each, Echo) for each in outcomes)}

    play(script)


def test_a_flood_of_questions_is_read_in_rations(play, lab):
    async def script(pair):
        with flood(lab, pack(NONCE, Question(PREFIXES * 8))):
            await until(lambda: pair.witness.counts["too many questions"])
            began, before = time.monotonic(), pair.witness.counts.total()
            await asyncio.sleep(1.0)
            windows = (time.monotonic() - began) / endpoint.WINDOW + 2
            assert pair.witness.counts.total() - before <= windows * endpoint.MOST
            pair.bind(1, [])  # while it rests
            await asyncio.sleep(2 * endpoint.WINDOW)

    play(script)


# --- hints


def test_a_hint_is_heard_and_rationed(play):
    async def script(pair):
        for _ in range(HINTS_A_SECOND + 5):
            pair.asker.hint(A, B)
        await until(lambda: len(pair.hints) + pair.witness.counts["too many hints"] >= HINTS_A_SECOND + 5)
        assert pair.hints == [A] * HINTS_A_SECOND
        pair.asker.hint(A, ip_address("192.0.2.1"))
        pair.asker.hint(ip_address("10.9.9.9"), B)
        assert pair.asker.counts == {"not sent": 1}

    play(script)


# --- addresses and interfaces that come and go


@pytest.mark.parametrize("family", [4, 6])
def test_it_listens_at_an_address_that_appears_later_goes_and_comes_back(play, lab, family):
    own, target = GATEWAYS[family][0], ip_address("10.244.3.1" if family == 4 else "fd00:10:244:3::1")
    asker, node = lab.nodes
    via = node.address if family == 4 else node.address6
    asker.run("ip", "route", "add", str(target), "via", via)

    def make():
        node.run("ip", "link", "add", "mesh0", "type", "bridge")
        node.run("ip", "link", "set", "mesh0", "up")
        node.run("ip", "address", "add", str(target), "dev", "mesh0", *(["nodad"] if family == 6 else []))

    async def script(pair):
        assert isinstance(await pair.ask(SHORT, target, own), Unanswered)
        for _ in range(2):
            make()
            assert isinstance(await pair.ask(PATIENT, target, own), Echo)
            echo = await pair.witness.ask(target, own, PREFIXES, SHORT)
            assert echo == Unanswered("no answer within 0.15 s")  # the asker answers nobody; but it was sent
            node.run("ip", "link", "del", "mesh0")
            assert isinstance(await pair.ask(SHORT, target, own), Unanswered)
            assert isinstance(await pair.witness.ask(target, own, PREFIXES, SHORT), Unanswered)

    try:
        play(script, addresses=([own], [target]))
    finally:
        node.run("ip", "link", "del", "mesh0", check=False)
        asker.run("ip", "route", "del", str(target))


def test_setting_addresses_again_changes_nothing_and_less_closes(play):
    async def script(pair):
        open_before = dict(pair.witness._endpoints)
        assert pair.bind(1, [each[1] for each in GATEWAYS.values()]) == ()
        assert pair.witness._endpoints == open_before
        pair.bind(1, [GATEWAYS[6][1]])
        with datagrams(pair.lab):  # the port is free again
            pass
        assert pair.bind(1, [B]) == ()
        assert isinstance(await pair.ask(), Echo)

    play(script)


def test_a_port_that_is_taken_is_a_problem_and_no_more(play, lab):
    async def script(pair):
        pair.bind(1, [])
        with datagrams(lab):
            (problem,) = pair.bind(1, [each[1] for each in GATEWAYS.values()])
            assert problem.code == Code.IO_FAILURE
            assert problem.msg == f"mesh.probePort: cannot listen on {B} port {PORT}: Address already in use"
            assert isinstance(await pair.ask(source=GATEWAYS[6][0], target=GATEWAYS[6][1]), Echo)
        assert pair.bind(1, [each[1] for each in GATEWAYS.values()]) == ()
        assert isinstance(await pair.ask(), Echo)

    play(script)
