"""`headcni mesh` on views as a daemon leaves them: all well, one link broken, old, damaged, none."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import orjson
import pytest
from mesh_node import NOW, OTHER, WEB0, mesh_node
from mesh_views import NOT_APPROVED, OWN6, SEEN, WELL, chain, found, linked, refusal, state, way
from samples import STATUS

from reconciler.mesh import loop
from reconciler.mesh.codes import Trouble
from reconciler.mesh.model import Holds, Link
from reconciler.mesh.viewfile import encode_view
from reconciler.operate import mesh_repair
from reconciler.operate.cli import main
from reconciler.operate.status import encode_status

ROOT = Path(__file__).parents[2]


@pytest.fixture
def node(tmp_path, capsys, monkeypatch):
    return mesh_node(tmp_path, capsys, monkeypatch)


# --- status


@pytest.mark.usefixtures("lives")
def test_status_of_a_mesh_that_is_well(node):
    node.see(WELL)
    code, out, err = node.mesh("status")
    assert (code, err) == (0, "")
    lines = {line.split()[0]: line for line in out.splitlines() if line}
    assert lines["mesh"].endswith(" in force")
    assert lines["as"].endswith("2s ago")
    assert "n1.tail.example 100.64.0.1" in lines["node"]
    assert lines["device"].endswith("tailscale0, MTU 1280")
    assert lines["peers"].endswith("3, 2 online")
    assert lines["ways"].endswith("3 to other nodes, 3 answer")
    assert "0.0.0.0/0 ::/0 192.168.7.0/24" in lines["foreign"]
    rows = [line.split()[:4] for line in out.splitlines() if line.startswith("10.244.1.0/24")]
    assert rows == [["10.244.1.0/24", link.value, "yes", "2m2s"] for link in Link]
    assert node.mesh() == (code, out, err)


@pytest.mark.usefixtures("lives")
@pytest.mark.parametrize("link", [Link.ANNOUNCED, Link.APPROVED, Link.SERVING])
def test_a_prefix_that_is_not_in_force_has_its_missing_link_its_cure_and_exit_code_1(node, link):
    node.see(linked(link, state(Holds.NO, refusal(Trouble.NOT_PRIMARY, "what is wrong", "what to do"), "a witness")))
    code, out, _ = node.mesh("status")
    assert code == 1
    assert "NOT in force" in out
    row = next(line for line in out.splitlines() if line.startswith(f"10.244.1.0/24    {link.value}"))
    assert row.split()[2:] == ["no", "2m2s", "a", "witness"]
    assert "what is wrong (code 133)\n  what to do" in out


@pytest.mark.usefixtures("lives")
@pytest.mark.parametrize("link", [Link.ACCEPTED, Link.DELIVERED])
def test_a_prefix_in_force_that_arrives_nowhere_is_told_but_in_force(node, link):
    node.see(linked(link, state(Holds.NO, refusal(Trouble.NOT_DELIVERED, "no answer", "look there"))))
    code, out, _ = node.mesh("status")
    assert code == 0
    assert "no answer (code 136)\n  look there" in out


@pytest.mark.usefixtures("lives")
def test_a_link_that_cannot_be_told_is_a_question_mark_and_not_in_force(node):
    node.see(linked(Link.SERVING, state(Holds.UNKNOWN)))
    code, out, _ = node.mesh("status")
    assert code == 1
    assert next(line for line in out.splitlines() if "serving" in line).split()[2] == "?"


@pytest.mark.usefixtures("lives")
def test_of_pods_that_are_announced_one_by_one_only_the_broken_are_shown(node):
    well = [chain(ip_network(f"10.244.1.{host}/32")) for host in (6, 7)]
    lame = chain(ip_network("10.244.1.8/32"), serving=state(Holds.NO, refusal(Trouble.NOT_PRIMARY, "it is not sent")))
    node.see(replace(WELL, chains=(*well, lame)))
    code, out, _ = node.mesh("status")
    assert code == 1
    assert "10.244.1.7/32" not in out
    assert "10.244.1.8/32  serving    no" in out
    assert "addresses of single pods in force: 2" in out


@pytest.mark.usefixtures("lives")
@pytest.mark.parametrize(("tailscaled", "code"), [("Running", 0), ("Stopped", 1)])
def test_where_nothing_is_to_be_announced_membership_counts(node, tailscaled, code):
    node.see(replace(WELL, chains=(), state=tailscaled))
    outcome = node.mesh("status")
    assert outcome[0] == code
    assert "this node announces nothing" in outcome[1]


@pytest.mark.usefixtures("lives")
def test_one_cause_of_several_broken_links_is_told_once(node):
    cut = refusal(Trouble.NODE_DELETED, "the node was deleted", "join again")
    node.see(replace(found(Trouble.NODE_DELETED, cut.msg, cut.details), chains=(chain(serving=state(Holds.NO, cut)),)))
    _, out, _ = node.mesh("status")
    assert out.count("the node was deleted (code 128)") == 1
    assert out.count("join again") == 1


@pytest.mark.usefixtures("lives")
def test_a_finding_without_a_cure_of_its_own_has_the_general_one(node):
    [finding] = found(Trouble.FENCE).findings
    node.see(replace(WELL, findings=(replace(finding, trouble=replace(finding.trouble, details="")),)))
    assert "the daemon puts them back" in node.mesh("status")[1]


@pytest.mark.usefixtures("lives")
def test_silent_ways_are_named_with_what_is_known_of_them_but_not_all(node):
    silent = {"online": False, "routed": False, "delivered": state(Holds.NO)}
    ways = tuple(way(f"10.244.{n}.0/24", f"n{n}", **silent) for n in range(2, 10))
    node.see(replace(WELL, ways=(*ways, way("10.244.99.0/24", "n99", delivered=state(Holds.UNKNOWN)))))
    line = next(line for line in node.mesh("status")[1].splitlines() if line.startswith("ways"))
    assert "9 to other nodes, 0 answer, 1 not probed yet; silent: 10.244.2.0/24 of n2 (offline, no route)" in line
    assert "n6" in line
    assert line.endswith("and 3 more")


@pytest.mark.usefixtures("lives")
def test_status_as_data_is_the_file_and_what_is_concluded(node):
    node.see(NOT_APPROVED)
    code, out, _ = node.mesh("status", "-o", "json")
    data = orjson.loads(out)
    assert code == 1
    assert data["view"] == orjson.loads(encode_view(NOT_APPROVED))
    assert (data["daemon_lives"], data["fresh"], data["in_force"]) == (True, True, False)
    assert data["age_seconds"] == pytest.approx(NOW - SEEN)


def test_without_a_daemon_the_last_known_state_is_shown_with_its_age_and_proves_nothing(node):
    node.see(replace(WELL, written=NOW - 3 * 3600))
    code, out, _ = node.mesh("status")
    assert code == 1
    assert "LAST KNOWN STATE, 3h old: no daemon runs on this node" in out
    assert "10.244.1.0/24" in out


@pytest.mark.usefixtures("lives")
def test_a_daemon_that_looks_no_more_is_told(node):
    node.see(replace(WELL, written=NOW - 61))
    code, out, _ = node.mesh("status")
    assert code == 1
    assert "LAST KNOWN STATE, 1m1s old: the daemon has not looked since" in out


@pytest.mark.usefixtures("lives")
def test_wide_shows_what_was_done_lately(node):
    node.see(WELL)
    assert "announced 10.244.1.0/24\nset RouteAll to true" in node.mesh("status", "-o", "wide")[1]


@pytest.mark.parametrize("verb", [["status"], ["routes"], ["dns"], ["why", OTHER], ["why", "web-0"]])
def test_no_table_is_wider_than_a_hundred_columns(node, verb):
    long = state(Holds.NO, refusal(Trouble.NOT_DELIVERED, "no answer"), "a long story of what was seen " * 9)
    ways = tuple(replace(each, name=f"a-node-with-a-long-name-{each.name}") for each in WELL.ways)
    node.see(replace(linked(Link.DELIVERED, long), ways=ways))
    node.put(WEB0)
    out = node.mesh(*verb)[1]
    tables = [block for block in out.split("\n\n") if "LINK" in block or "ACCEPTED" in block]
    assert tables or verb == ["dns"]
    assert max((len(line) for block in tables for line in block.splitlines()), default=0) <= 100


# --- what may be missing


@pytest.mark.usefixtures("lives")
@pytest.mark.parametrize("verb", [["status"], ["routes"], ["dns"], ["why", OTHER]])
@pytest.mark.parametrize(
    ("content", "why", "cure"),
    [
        (b"{", "not JSON", "writes it anew"),
        (b"", "empty file", "writes it anew"),
        (
            b'{"format": "headcni/mesh-view/7"}',
            "format headcni/mesh-view/7, this program knows",
            "came with the daemon",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_line_with_a_cure(node, verb, content, why, cure):
    node.see(WELL)
    node.write("mesh-view.json", content)
    code, out, err = node.mesh(*verb)
    assert (code, out) == (1, "")
    assert f"mesh-view.json cannot be read: {why}" in err
    assert cure in err


def test_a_node_that_was_never_looked_at(node):
    (node.root / "daemon.lock").write_text("")
    code, _, err = node.mesh("status")
    assert code == 1
    assert "nobody has looked at the mesh yet" in err
    assert "start the daemon" in err


@pytest.mark.parametrize("verb", [["status"], ["why", OTHER], ["dns"], ["routes"]])
def test_a_node_without_a_mesh_says_so_even_beside_an_old_view(node, verb):
    node.see(WELL)
    node.write("status.json", encode_status(STATUS))
    code, _, err = node.mesh(*verb)
    assert code == 1
    assert "mesh.mode is none" in err


# --- routes


@pytest.mark.usefixtures("lives")
def test_routes_tell_ours_from_others_and_what_is_in_the_kernel(node):
    node.see(replace(NOT_APPROVED, ways=(way(), way("10.244.3.0/24", "n3", routed=False, rtt_ms=None, path=""))))
    code, out, _ = node.mesh("routes")
    rows = [line.split() for line in out.splitlines()]
    assert code == 0
    assert ["10.244.1.0/24", "HeadCNI", "yes", "no"] in rows
    assert ["192.168.7.0/24", "others", "yes", "?"] in rows
    assert ["10.244.2.0/24", "n2", "yes", "yes", "yes", "1.2", "ms", "direct", "192.0.2.12:41641"] in rows
    assert ["10.244.3.0/24", "n3", "yes", "no", "yes", "-", "-"] in rows


@pytest.mark.usefixtures("lives")
def test_routes_as_data(node):
    node.see(WELL)
    data = orjson.loads(node.mesh("routes", "-o", "json")[1])
    assert data["advertised"][0] == {
        "prefix": "10.244.1.0/24",
        "owner": "HeadCNI",
        "announced": "yes",
        "approved": "yes",
    }
    assert [each["prefix"] for each in data["accepted"]] == [str(each.prefix) for each in WELL.ways]


# --- dns


@pytest.mark.usefixtures("lives")
def test_dns_prints_a_server_block_for_the_tailnets_domain(node):
    import yaml

    node.see(WELL)
    code, out, _ = node.mesh("dns")
    data = orjson.loads(node.mesh("dns", "-o", "json")[1])
    assert code == 0
    assert data["corefile"].splitlines()[0] == "tail.example:53 {"
    assert "    forward . 100.100.100.100" in data["corefile"].splitlines()
    assert data["corefile"] in out
    assert yaml.safe_load(data["configmap"])["data"]["tailnet.server"] == data["corefile"]
    assert "UDP and TCP port 53" in out


@pytest.mark.usefixtures("lives")
def test_pods_that_have_only_ipv6_get_the_resolver_they_can_reach(node):
    node.see(replace(WELL, chains=(chain(OWN6),)))
    assert "forward . fd7a:115c:a1e0::53\n" in node.mesh("dns")[1]


@pytest.mark.usefixtures("lives")
@pytest.mark.parametrize(
    ("view", "code", "told"),
    [
        (replace(WELL, accepts_dns=True), 0, "tailscaled writes this node's resolv.conf"),
        (replace(WELL, magic_enabled=False), 0, "full names are answered, short ones are not"),
        (replace(WELL, magic_enabled=False, accepts_dns=True), 1, "left without a name server (code 149)"),
        (found(Trouble.FILTER), 1, "the node's firewall drops forwarded packets"),
    ],
    ids=["accept-dns", "magic off", "the trap", "firewall"],
)
def test_dns_names_what_hinders_it(node, view, code, told):
    node.see(view)
    outcome = node.mesh("dns")
    assert outcome[0] == code
    assert told in outcome[1]


@pytest.mark.usefixtures("lives")
def test_dns_without_a_domain(node):
    node.see(replace(WELL, magic_suffix=""))
    code, _, err = node.mesh("dns")
    assert code == 1
    assert "the tailnet's domain is not known here" in err


# --- repair


class Daemon:
    """What it does each time that the command waits."""

    def __init__(self, node, *acts):
        self.node = node
        self.acts = list(acts)
        self.request = node.root / mesh_repair.FILE
        self.asked = []

    def pause(self, seconds):
        self.asked.append(self.request.read_bytes() if self.request.exists() else None)
        if self.acts:
            self.acts.pop(0)()

    def take(self):
        self.request.unlink()

    def show(self):
        self.node.see(WELL)


@pytest.fixture
def waiting(node, monkeypatch):
    def use(*acts):
        daemon = Daemon(node)
        daemon.acts = [getattr(daemon, act) if act else lambda: None for act in acts]
        monkeypatch.setattr(mesh_repair, "sleep", daemon.pause)
        monkeypatch.setattr(mesh_repair, "time", lambda: NOW)
        return daemon

    return use


@pytest.mark.usefixtures("lives")
def test_repair_asks_by_a_file_and_shows_what_came_of_it(node, waiting):
    node.see(replace(NOT_APPROVED, written=SEEN - 20))
    daemon = waiting("", "take", "show")
    code, out, _ = node.mesh("repair")
    assert code == 0
    assert "in force" in out
    assert len(daemon.asked) == 3
    assert int(daemon.asked[0]) == int(daemon.asked[1]) > 0
    assert not list((node.root / "tmp").iterdir())


@pytest.mark.usefixtures("lives")
def test_repair_is_possible_where_the_view_is_damaged(node, waiting):
    node.see(WELL)
    node.write("mesh-view.json", b"{")
    waiting("take", "show")
    assert node.mesh("repair")[0] == 0


@pytest.mark.usefixtures("lives")
@pytest.mark.parametrize("acts", [(), ("take",), ("show",)], ids=["neither", "taken", "only looked"])
def test_a_daemon_that_does_not_do_it_is_told_after_a_while(node, waiting, acts):
    node.see(replace(WELL, written=SEEN - 20))
    daemon = waiting(*acts)
    code, _, err = node.mesh("repair")
    assert code == 1
    assert "has not shown in 15 s" in err
    assert len(daemon.asked) == 150


def test_repair_without_a_daemon_does_nothing(node, waiting):
    node.see(WELL)
    daemon = waiting()
    code, _, err = node.mesh("repair")
    assert code == 1
    assert "no daemon runs on this node, so nothing was done" in err
    assert not daemon.request.exists()


def test_the_daemon_looks_for_the_same_file():
    assert loop.REPAIR_FILE == mesh_repair.FILE


# --- all


@pytest.mark.usefixtures("lives")
def test_what_only_reads_writes_nothing(node):
    node.see(WELL)
    node.put(WEB0)
    before = {path: path.stat().st_mtime_ns for path in node.root.rglob("*")}
    for verb in (["status"], ["why", "web-0"], ["why", OTHER], ["routes"], ["dns"]):
        node.mesh(*verb)
    assert {path: path.stat().st_mtime_ns for path in node.root.rglob("*")} == before


@pytest.mark.parametrize("verb", [["status"], ["why", OTHER], ["routes"], ["dns"]])
def test_looking_at_the_mesh_imports_nothing_heavy(node, verb):
    node.see(WELL)
    heavy = ("aiohttp", "asyncio", "pyroute2", "transitions", "watchfiles", "yaml", "prometheus_client")
    program = (
        "import sys; from reconciler.operate.cli import main; "
        f"main(['--state-dir', {str(node.root)!r}, 'mesh', *{verb!r}]); print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("argv", [["fly"], ["why"], ["status", "now"], ["policy", "--owner"], ["policy", "--fly"]])
def test_a_wrong_command_line_is_exit_code_2(argv, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["mesh", *argv])
    assert exit.value.code == 2
    assert "usage: headcni" in capsys.readouterr().err


# --- headcni status


@pytest.mark.parametrize(
    ("view", "line"),
    [
        (WELL, "tailscale: in force"),
        (NOT_APPROVED, "tailscale: 10.244.1.0/24 is NOT in force: 10.244.1.0/24 is not approved; approve it"),
        (replace(WELL, chains=()), "tailscale: nothing of this node's is announced"),
    ],
)
def test_the_nodes_status_has_the_mesh_in_a_line(node, view, line):
    node.see(view)
    out = node.run("status")[1]
    shown = next(each for each in out.splitlines() if each.startswith("mesh"))
    assert shown.split(maxsplit=1)[1] == line
    assert "2 of 3 peers online, 3 of 3 pod ranges of other nodes answer" in out


def test_the_nodes_status_points_to_findings(node):
    node.see(found(Trouble.MTU))
    assert "1 finding, see `headcni mesh status`" in node.run("status")[1]
