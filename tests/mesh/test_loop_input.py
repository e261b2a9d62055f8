"""What is wrong with keys, sockets, addresses and versions: a code, the value and the cure, and nothing is harmed.

And it is over as soon as it is put right.
"""

from __future__ import annotations

import errno

import pytest

from cni.spec import Code, Refusal
from fixtures.headscale import Fault
from fixtures.localapi.preferences import LOCKED
from fixtures.meshsim import AUTH_KEY, FOREIGN, OWN, play
from reconciler import config
from reconciler.mesh.codes import Trouble
from reconciler.mesh.headscale import HeadscaleClient
from reconciler.mesh.leave import leave

NOBODY = "http://127.0.0.1:1"


# --- headscale.url


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/api/v1", "headscale.example.com", "http://", "ftp://h:1"])
def test_a_url_that_is_none_keeps_the_daemon_from_starting(url):
    problems = config.load({"mesh.mode": "tailscale", "headscale.url": url}, {}, None)
    assert isinstance(problems, list)
    (problem,) = problems
    assert problem.key == "headscale.url"
    assert url in str(problem)
    assert problem.cure


def test_a_url_where_nobody_listens(tmp_path):
    async def story(sim):
        sim.url = NOBODY
        sim.join()
        sim.start(**{"headscale.url": NOBODY})
        await sim.until_told(Trouble.HEADSCALE_UNREACHABLE, NOBODY, "Headscale runs")
        assert sim.ours == set(OWN), "announcing needs no API"

    play(tmp_path, story, approval="key")


def test_a_new_node_whose_control_server_does_not_answer_waits_for_it(tmp_path):
    async def story(sim):
        sim.foreign = ()
        sim.node.lose_control()
        sim.start()
        await sim.until_told(Trouble.CONTROL_LOST, sim.url, "connection refused")
        sim.node.regain_control()
        await sim.until_in_force()

    play(tmp_path, story)


# --- keys


@pytest.mark.parametrize("approval", ["auto", "key"])
def test_an_auth_key_that_is_used_up(tmp_path, approval):
    async def story(sim):
        sim.foreign = ()
        sim.node.keys.clear()
        sim.start()
        told = await sim.until_told(Trouble.JOIN_REFUSED, sim.url, "invalid pre auth key", "preauthkeys create")
        assert AUTH_KEY not in str(told)
        tries = sim.tailscaled.calls.count("POST start")
        await sim.always(lambda: sim.tailscaled.calls.count("POST start") == tries, 50, "the same key waits")
        sim.node.keys.add("another-key")
        (tmp_path / "auth-key").write_text("another-key\n")
        await sim.until_in_force()

    play(tmp_path, story, approval=approval)


@pytest.mark.parametrize(("content", "says"), [(None, "cannot be read"), ("", "is empty"), ("a b\nc", "several lines")])
def test_an_auth_key_file_that_holds_none(tmp_path, content, says):
    async def story(sim):
        sim.foreign = ()
        file = tmp_path / "auth-key"
        file.unlink() if content is None else file.write_text(content)
        sim.start()
        await sim.until_told(Trouble.SECRET, str(file), says)
        assert sim.writes() == []
        file.write_text(AUTH_KEY)
        await sim.until_in_force()

    play(tmp_path, story)


def test_a_new_node_without_a_key_waits_for_a_person(tmp_path):
    async def story(sim):
        sim.foreign = ()
        sim.start(**{"headscale.authKeyFile": ""})
        await sim.until_told(Trouble.NOT_JOINED, sim.url, "HEADCNI_AUTH_KEY", "tailscale up")
        await sim.always(lambda: sim.writes() == [], 30)
        sim.foreign = FOREIGN
        sim.join()
        await sim.until_in_force()

    play(tmp_path, story)


@pytest.mark.parametrize("generation", ["0.22", "0.26", "0.29"])
@pytest.mark.parametrize("how", ["wrong", "revoked"])
def test_an_api_key_that_is_not_accepted(tmp_path, generation, how):
    async def story(sim):
        given, sim.headscale.key = sim.headscale.key, "another-key"
        if how == "revoked":
            sim.headscale.expired_keys.add(given)
        sim.join()
        sim.start()
        told = await sim.until_told(Trouble.HEADSCALE_KEY, sim.url, "headscale.apiKeyFile")
        assert given not in str(told)
        assert sim.ours == set(OWN)
        (tmp_path / "api-key").write_text("another-key")
        await sim.until_in_force()

    play(tmp_path, story, approval="key", generation=generation)


def test_an_api_key_is_revoked_while_all_is_well(tmp_path):
    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_calm()
        sim.headscale.key = "another-key"
        await sim.until_told(Trouble.HEADSCALE_KEY, sim.url, within=40)
        await sim.always(lambda: sim.in_force, 20)

    play(tmp_path, story, approval="key")


def test_a_key_that_cannot_approve_is_not_tried_without_end(tmp_path):
    """Each try costs Headscale a twentieth of a second, on each node."""

    async def story(sim):
        sim.join()
        sim.headscale.inject("POST", "/approve_routes", Fault(status=500, body='{"message":"boom"}'))
        sim.start()
        await sim.until_told(Trouble.HEADSCALE_ANSWER, "boom")
        await sim.always(lambda: not sim.in_force, 120)
        tries = [each for each in sim.headscale.calls if each.startswith("POST")]
        assert 4 < len(tries) < 10
        assert len(sim.headscale.calls) < 130, "at most one look in two seconds, and those that belong to the tries"

    play(tmp_path, story, approval="key")


# --- the socket


def test_a_socket_that_is_missing(tmp_path):
    async def story(sim):
        sim.join()
        await sim.tailscaled.stop()
        sim.start()
        socket = str(sim.tailscaled.socket)
        await sim.until_told(Trouble.TAILSCALED_UNREACHABLE, f"{socket} does not exist", "tailscale.socket")
        await sim.tailscaled.start()
        await sim.until_in_force()

    play(tmp_path, story)


def test_a_socket_that_is_a_plain_file(tmp_path):
    async def story(sim):
        sim.join()
        plain = tmp_path / "plain"
        plain.write_text("")
        sim.start(**{"tailscale.socket": str(plain)})
        await sim.until_told(Trouble.TAILSCALED_UNREACHABLE, f"{plain} is not a socket", "tailscale.socket")

    play(tmp_path, story)


def test_a_socket_that_belongs_to_something_else(tmp_path):
    async def story(sim):
        sim.join()
        sim.tailscaled.inject("GET", "status", Fault(status=200, body="<html>hello</html>"))
        sim.start()
        await sim.until_told(Trouble.TAILSCALED_ANSWER, "<html>hello", "tailscale.socket")
        assert sim.writes() == []
        sim.tailscaled.cure()
        await sim.until_in_force()

    play(tmp_path, story)


def test_a_user_who_may_only_read(tmp_path):
    async def story(sim):
        sim.join()
        sim.tailscaled.readers_only = True
        sim.start()
        await sim.until_told(Trouble.TAILSCALED_ANSWER, "403", "prefs write access denied", "--operator")
        sim.tailscaled.readers_only = False
        await sim.until_in_force()

    play(tmp_path, story)


# --- tailscaled itself


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [("version", "1.64.2-t1", ("1.64.2", "1.66.0", "upgrade")), ("tun", False, ("userspace", "/dev/net/tun"))],
)
def test_a_tailscaled_that_cannot_carry_pods(tmp_path, name, value, says):
    async def story(sim):
        sim.join()
        right = getattr(sim.node, name)
        setattr(sim.node, name, value)
        sim.start()
        await sim.until_told(Trouble.TAILSCALED_UNSUITABLE, *says)
        await sim.always(lambda: sim.writes() == [] and not sim.in_force, 30)
        setattr(sim.node, name, right)
        await sim.tailscaled.restart()
        await sim.until_in_force()

    play(tmp_path, story)


@pytest.mark.parametrize("prefs", [{}, {"ShieldsUp": True}])
def test_a_tailscaled_that_is_locked_by_its_configuration(tmp_path, prefs):
    async def story(sim):
        sim.join(**prefs)
        sim.node.locked = True
        sim.start()
        await sim.until_told(Trouble.TAILSCALED_LOCKED, LOCKED, '"Locked": false')
        await sim.always(lambda: not sim.in_force, 30)
        sim.node.locked = False
        await sim.until(lambda: sim.in_force and not sim.troubles(), 10, "healed")

    play(tmp_path, story)


@pytest.mark.parametrize("version", ["1.66.0", "1.90.1", "1.102.3-dev", "unheard-of"])
def test_every_other_version_is_used(tmp_path, version):
    async def story(sim):
        sim.node.version = version
        sim.join()
        sim.start()
        await sim.until_in_force()

    play(tmp_path, story)


# --- the record


def test_a_record_that_is_damaged_is_set_aside_and_a_newer_one_is_left_alone(tmp_path):
    async def story(sim):
        sim.join()
        (sim.store.root / "mesh.json").write_text("{")
        sim.start()
        await sim.until_in_force()
        assert any((sim.store.root / "quarantine").iterdir())
        await sim.kill()

        sim.node.edit(AdvertiseRoutes=list(FOREIGN))
        sim.tailscaled.calls.clear()
        newer = '{"format": "headcni/mesh/9"}'
        (sim.store.root / "mesh.json").write_text(newer)
        sim.start()
        await sim.until(lambda: any("newer" in each.msg for each in sim.troubles()), 5, "told")
        await sim.always(lambda: sim.announced == FOREIGN, 20)
        assert set(sim.writes()) <= {"POST start"}, "which only refreshes"
        assert (sim.store.root / "mesh.json").read_text() == newer

    play(tmp_path, story)


def full(path, content):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_without_space_for_the_record_nothing_is_announced_or_set(tmp_path, monkeypatch):
    async def story(sim):
        sim.join(ShieldsUp=True)
        with monkeypatch.context() as disk:
            disk.setattr("reconciler.mesh.record._write", full)
            sim.start()
            await sim.until_told(Code.IO_FAILURE, "mesh.json", "No space left", "free space")
            await sim.always(lambda: sim.announced == FOREIGN and sim.node.prefs["ShieldsUp"], 20)
        await sim.until(lambda: sim.in_force and not sim.troubles(), 10, "healed")
        assert not sim.node.prefs["ShieldsUp"]

    play(tmp_path, story)


def test_what_is_ours_stays_ours_where_the_node_moves_to_another_server(tmp_path):
    elsewhere = "https://headscale.example.com"

    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_in_force()
        await sim.kill()
        sim.node.prefs = {**sim.node.prefs, "ControlURL": elsewhere}
        sim.start(**{"headscale.url": elsewhere})
        await sim.until_in_force()
        await sim.kill()
        await leave(sim.store, sim.tailscaled.socket)
        assert sim.announced == FOREIGN

    play(tmp_path, story)


def test_the_mesh_is_left_without_space_for_the_record(tmp_path, monkeypatch):
    async def story(sim):
        sim.join(ShieldsUp=True)
        sim.start()
        await sim.until_in_force()
        await sim.kill()
        monkeypatch.setattr("reconciler.mesh.record._write", full)
        said = await leave(sim.store, sim.tailscaled.socket)
        assert not any(isinstance(each, Refusal) for each in said)
        assert sim.announced == FOREIGN
        assert sim.node.prefs["ShieldsUp"]
        assert not (sim.store.root / "mesh.json").exists()

    play(tmp_path, story)


@pytest.mark.parametrize("how", ["stopped", "locked", "elsewhere"])
def test_what_cannot_be_left_now_is_told_and_left_later(tmp_path, how):
    async def story(sim):
        sim.join(RouteAll=False)
        sim.start()
        await sim.until_in_force()
        await sim.kill()
        if how == "stopped":
            await sim.tailscaled.stop()
        elif how == "locked":
            sim.node.locked = True
        else:
            sim.node.prefs = {**sim.node.prefs, "ControlURL": NOBODY}
        said = await leave(sim.store, sim.tailscaled.socket)
        assert isinstance(said[-1], Refusal)
        assert said[-1].details
        assert sim.ours == set(OWN)
        assert (sim.store.root / "mesh.json").exists()

        sim.node.locked = False
        if how == "stopped":
            await sim.tailscaled.start()
        sim.node.prefs = {**sim.node.prefs, "ControlURL": sim.url}
        said = await leave(sim.store, sim.tailscaled.socket)
        assert not any(isinstance(each, Refusal) for each in said)
        assert sim.announced == FOREIGN
        assert sim.node.prefs["RouteAll"] is False
        assert not (sim.store.root / "mesh.json").exists()

    play(tmp_path, story)


def test_the_api_client_is_closed_with_the_daemon(tmp_path, monkeypatch):
    closed = []
    close = HeadscaleClient.close

    async def told(self):
        closed.append(self)
        await close(self)

    monkeypatch.setattr(HeadscaleClient, "close", told)

    async def story(sim):
        sim.join()
        sim.start()
        await sim.until_in_force()
        await sim.kill()
        assert len(closed) == 1
        assert sim.others.listening == []
        await sim.until(lambda: not sim.tailscaled.watched, 1, "the bus is left")

    play(tmp_path, story, approval="key")
