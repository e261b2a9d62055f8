"""Each fault at each call of tailscaled and of Headscale: told with its value and its cure, survived, and over with it.

What was announced before stays announced, and what is foreign stays as it is (`play` sees to that).
"""

from __future__ import annotations

import pytest

from fixtures.headscale import Fault
from fixtures.meshsim import FOREIGN, OWN, play
from reconciler.mesh.codes import Trouble

TOLD = 8.0  # seconds: a call is given up after three, the look before it may just be over
HEALED = 12.0

FAULTS = {
    "hang": (Fault(hang=True), Trouble.TAILSCALED_UNREACHABLE, "did not answer"),
    "drop": (Fault(drop=True), Trouble.TAILSCALED_UNREACHABLE, "broke off"),
    "cut": (Fault(cut=True), Trouble.TAILSCALED_UNREACHABLE, "broke off"),
    "403": (Fault(status=403, body="access denied"), Trouble.TAILSCALED_ANSWER, "root"),
    "500": (Fault(status=500, body="boom"), Trouble.TAILSCALED_ANSWER, "boom"),
    "garbage": (Fault(status=200, body="\x00banana"), Trouble.TAILSCALED_ANSWER, "no JSON object"),
}


def copy(fault):
    return Fault(**vars(fault))


def something_happens(sim):
    sim.tailscaled.flood(1)


def routes_are_taken_away(sim):
    sim.node.edit(AdvertiseRoutes=list(FOREIGN))


def a_preference_is_turned_back(sim):
    sim.node.edit(RouteAll=False)


def nobody_else_is_heard(sim):
    sim.others.everybody_silent = True


CALLS = {
    "status": ("GET", "status", something_happens, "GET status"),
    "prefs": ("GET", "prefs", something_happens, "GET prefs"),
    "announce": ("PATCH", "prefs", routes_are_taken_away, "PATCH prefs"),
    "prefer": ("PATCH", "prefs", a_preference_is_turned_back, "PATCH prefs"),
    "refresh": ("POST", "start", nobody_else_is_heard, "POST start"),
}
UNANSWERED = ("refresh",)  # its answer has no content


@pytest.mark.parametrize(
    ("call", "fault"),
    [(call, fault) for call in CALLS for fault in FAULTS if not (call in UNANSWERED and fault in ("cut", "garbage"))],
)
def test_each_fault_at_each_call_of_tailscaled(tmp_path, call, fault):
    method, path, cause, named = CALLS[call]
    what, code, word = FAULTS[fault]

    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        sim.tailscaled.inject(method, path, copy(what))
        cause(sim)
        await sim.until_told(code, named, word, within=TOLD + (10 if method != "GET" and fault == "hang" else 0))
        sim.tailscaled.cure()
        sim.others.everybody_silent = False
        await sim.until(lambda: sim.in_force and not sim.troubles(), HEALED, "healed")
        assert sim.announced == (*FOREIGN, *OWN)
        assert sim.node.prefs["RouteAll"] is True

    play(tmp_path, story)


@pytest.mark.parametrize("path", ["status", "prefs"])
@pytest.mark.parametrize("fault", FAULTS)
def test_one_answer_that_does_not_come_does_not_end_what_is_in_force(tmp_path, path, fault):
    """Packets pass all the same, and the witnesses say so."""
    once = Fault(**{**vars(FAULTS[fault][0]), "times": 1})

    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        sim.tailscaled.inject("GET", path, once)
        something_happens(sim)
        await sim.always(lambda: sim.in_force, 8)
        assert once.times == 0

    play(tmp_path, story)


@pytest.mark.parametrize("fault", [each for each in FAULTS if each not in ("cut", "garbage")])
@pytest.mark.parametrize("path", ["start", "login-interactive"])
def test_each_fault_at_each_call_of_joining(tmp_path, path, fault):
    what, code, word = FAULTS[fault]

    async def story(sim):
        sim.foreign = ()
        sim.tailscaled.inject("POST", path, copy(what))
        sim.start()
        await sim.until_told(code, f"POST {path}", word, within=12)
        sim.tailscaled.cure()
        await sim.until_in_force(130)

    play(tmp_path, story)


@pytest.mark.parametrize("fault", FAULTS)
def test_without_the_event_bus_everything_is_seen_later(tmp_path, fault):
    async def story(sim):
        sim.join()
        sim.tailscaled.inject("GET", "watch-ipn-bus", copy(FAULTS[fault][0]))
        sim.start()
        await sim.until_calm()
        sim.node.edit(RouteAll=False)
        await sim.until(lambda: sim.node.prefs["RouteAll"], 35, "set again")
        sim.tailscaled.cure()
        await sim.until(lambda: sim.tailscaled.watched, 6, "the bus is heard again")
        sim.node.edit(RouteAll=False)
        await sim.until(lambda: sim.node.prefs["RouteAll"], 2, "set again at once")

    play(tmp_path, story)


def test_a_bus_that_is_cut_and_one_that_floods_cost_nothing(tmp_path):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        sim.tailscaled.calls.clear()
        for _ in range(10):
            sim.tailscaled.cut_bus()
            sim.tailscaled.flood(1000)
            await sim.always(lambda: sim.in_force, 0.5)
        sim.node.edit(RouteAll=False)
        await sim.until(lambda: sim.node.prefs["RouteAll"], 5, "set again")
        assert sim.writes() == ["PATCH prefs"]

    play(tmp_path, story)


@pytest.mark.parametrize("peers", [0, 3])
@pytest.mark.parametrize("leave_socket", [False, True])
def test_a_tailscaled_that_ends_is_missed_at_once_and_found_again(tmp_path, peers, leave_socket):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        await sim.tailscaled.stop(leave_socket=leave_socket)
        await sim.until_told(Trouble.TAILSCALED_UNREACHABLE, str(sim.tailscaled.socket), within=5)
        assert sim.view.state == "unreachable"
        assert not sim.in_force
        await sim.always(lambda: not sim.in_force, 15)
        await sim.tailscaled.start()
        await sim.until(lambda: sim.in_force and not sim.troubles(), HEALED, "healed")

    play(tmp_path, story, peers=peers)


# --- Headscale

OF_HEADSCALE = {
    "no answer": (Fault(hang=True), Trouble.HEADSCALE_UNREACHABLE, "did not answer"),
    "drop": (Fault(drop=True), Trouble.HEADSCALE_UNREACHABLE, "reachable"),
    "cut": (Fault(cut=True), Trouble.HEADSCALE_UNREACHABLE, "reachable"),
    "401": (Fault(status=401, body="Unauthorized"), Trouble.HEADSCALE_KEY, "apikeys create"),
    "500 for a key": (Fault(status=500, body="Unauthorized\n"), Trouble.HEADSCALE_KEY, "apikeys create"),
    "500": (Fault(status=500, body='{"code":2,"message":"boom"}'), Trouble.HEADSCALE_ANSWER, "boom"),
    "garbage": (Fault(status=200, body="banana"), Trouble.HEADSCALE_ANSWER, ""),
    "a page": (Fault(status=302, location="https://sso.example/"), Trouble.HEADSCALE_URL, "sso.example"),
}


@pytest.mark.parametrize("fault", OF_HEADSCALE)
@pytest.mark.parametrize(("method", "path"), [("GET", "/node"), ("POST", "/approve_routes")])
def test_each_fault_at_each_call_of_headscale(tmp_path, method, path, fault):
    what, code, word = OF_HEADSCALE[fault]

    async def story(sim):
        sim.join()
        sim.headscale.inject(method, path, copy(what))
        sim.start()
        within = 20 if fault == "no answer" else 5
        named = "not kept" if (method, fault) == ("POST", "garbage") else sim.url
        await sim.until_told(code, named, word, within=within)
        assert not sim.in_force
        sim.headscale.cure()
        patience = HEALED + (15 if fault == "no answer" else 0)  # of a request that was on its way
        await sim.until(lambda: sim.in_force and not sim.troubles(), patience, "healed")

    play(tmp_path, story, approval="key")


@pytest.mark.parametrize("fault", OF_HEADSCALE)
def test_what_is_in_force_stays_so_while_headscale_fails(tmp_path, fault):
    """The witnesses say so."""
    what, code, _ = OF_HEADSCALE[fault]

    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        sim.headscale.inject("GET", "/node", copy(what))
        await sim.until_told(code, sim.url, within=50)
        await sim.always(lambda: sim.in_force, 30)
        sim.headscale.cure()
        await sim.until(lambda: not sim.troubles(), 50, "healed")

    play(tmp_path, story, approval="key")


def test_a_headscale_that_ends_is_missed_and_found_again(tmp_path):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        await sim.headscale.stop()
        await sim.until_told(Trouble.HEADSCALE_UNREACHABLE, sim.url, within=40)
        await sim.always(lambda: sim.in_force, 20)
        await sim.headscale.start()
        await sim.until(lambda: not sim.troubles(), 40, "healed")

    play(tmp_path, story, approval="key")


@pytest.mark.parametrize(("before", "after"), [("0.25", "0.29"), ("0.29", "0.25"), ("0.22", "0.26")])
def test_headscale_is_upgraded_under_the_daemon(tmp_path, before, after):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        sim.headscale.become(after)
        sim.node.disapprove(OWN[0])
        await sim.until(lambda: OWN[0] in sim.node.serving, 5, "approved again")
        await sim.until(lambda: sim.in_force and not sim.troubles(), HEALED, "healed")

    play(tmp_path, story, approval="key", generation=before)


def test_while_headscale_is_slow_tailscaled_is_looked_at_all_the_same(tmp_path):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        sim.headscale.inject("GET", "/node", Fault(hang=True))
        sim.node.disapprove(OWN[0])
        await sim.until(lambda: not sim.in_force, 5)
        sim.node.edit(RouteAll=False)
        await sim.until(lambda: sim.node.prefs["RouteAll"], 5, "set again")

    play(tmp_path, story, approval="key")
