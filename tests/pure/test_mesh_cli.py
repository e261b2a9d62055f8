"""`headcni mesh` on views as a daemon leaves them: all well, one link broken, old, damaged, none."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import types
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import orjson
import pytest
from mesh_views import NOT_APPROVED, OWN6, SEEN, WELL, chain, found, linked, refusal, state, way
from samples import BORN, STATUS, in_state
from test_cli import Node

from reconciler.mesh import loop
from reconciler.mesh.codes import Trouble
from reconciler.mesh.model import Holds, Link, Prefs
from reconciler.mesh.preferences import exit_node_warning
from reconciler.mesh.viewfile import encode_view, summary
from reconciler.mesh.why import KernelWay
from reconciler.node.meshlink import MeshLink, WayTo
from reconciler.operate import mesh_repair, mesh_why
from reconciler.operate.cli import main
from reconciler.operate.mesh_kernel import kernel_way
from reconciler.operate.status import encode_status
from statemachine.attachment import State

ROOT = Path(__file__).parents[2]
NOW = BORN + 7200
WEB0 = in_state(State.ADVERTISED)  # 10.244.1.7 and fd00:244:1::7, hcni5d41402abc4b
OTHER = "10.244.2.7"


class MeshNode(Node):
    def see(self, view):
        mesh = {"mode": "tailscale", "static_routes": [], "cluster_cidrs": ["10.244.0.0/16", "fd00:244::/32"]}
        cidrs = ("10.244.1.0/24", "fd00:244:1::/64")
        status = replace(STATUS, ready=True, not_ready=(), warnings=(), pod_cidrs=cidrs, mesh=mesh | summary(view))
        self.write("status.json", encode_status(status))
        self.write("mesh-view.json", encode_view(view))

    def mesh(self, *argv):
        return self.run("mesh", *argv)

    def steps(self, query):
        """What is not all right on the way, by its name."""
        code, out, _ = self.mesh("why", query, "-o", "json")
        steps = [step for walk in orjson.loads(out)["walks"] for step in walk["steps"]]
        assert code == (0 if all(step["holds"] == "yes" for step in steps) else 1)
        return {step["link"]: step["holds"] for step in steps if step["holds"] != "yes"}


@pytest.fixture
def node(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("reconciler.operate.cli.time", types.SimpleNamespace(time=lambda: NOW))
    monkeypatch.setattr(mesh_why, "kernel_way", lambda address: None)
    node = MeshNode(tmp_path, capsys)
    (tmp_path / "tmp").mkdir()
    return node


@pytest.fixture
def lives(node):
    """A daemon holds the lock."""
    fd = os.open(node.root / "daemon.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield
    os.close(fd)


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


# --- why: to a pod of another node


@pytest.mark.usefixtures("lives")
def test_why_when_every_link_holds(node):
    node.see(WELL)
    code, out, err = node.mesh("why", OTHER)
    assert (code, err) == (0, "")
    assert "from n1 to 10.244.2.7, a pod of n2, 10.244.2.0/24" in out
    assert out.endswith("every link holds\n")
    assert "direct 192.0.2.12:41641" in out


def lost(code=Trouble.NOT_DELIVERED):
    return state(Holds.NO, refusal(code, "what is wrong", "what to do"))


NO_WAY = tuple(each for each in WELL.ways if each.name != "n2")
OFFLINE = way(online=False, delivered=lost())
BROKEN = {
    "tailscaled unreachable": (
        replace(WELL, state="unreachable", ways=NO_WAY),
        "this node is in the tailnet",
        "start tailscaled",
    ),
    "stopped": (replace(WELL, state="Stopped"), "this node is in the tailnet", "tailscale up"),
    "not joined": (replace(WELL, state="NeedsLogin", ways=()), "this node is in the tailnet", "auth key"),
    "starting": (replace(WELL, state="NoState"), "this node is in the tailnet", "see that Headscale runs"),
    "deleted, and believes itself running": (
        found(Trouble.NODE_DELETED, cure="join again"),
        "this node is in the tailnet",
        "join again",
    ),
    "control lost": (found(Trouble.CONTROL_LOST), "Headscale keeps this node informed", "do not restart tailscaled"),
    "no interface": (replace(WELL, device=None), "the mesh has its interface", "--tun=userspace-networking"),
    "nobody has it": (replace(WELL, ways=NO_WAY), "a node of the tailnet has it", "headcni mesh status"),
    "offline": (replace(WELL, ways=(OFFLINE,)), "n2 is online", "see that n2 and its tailscaled run"),
    "no route": (replace(WELL, ways=(way(routed=False),)), "this node routes 10.244.2.0/24", "headcni mesh repair"),
    "preferences": (found(Trouble.PREFERENCE), "tailscaled's preferences let pods pass", "find the program"),
    "no fence": (found(Trouble.FENCE), "fence and guard are in the kernel", "puts them back"),
    "firewall": (found(Trouble.FILTER), "the firewall lets pods pass", "netfilter mode"),
    "conflict": (found(Trouble.CIDR_CONFLICT), "no other node claims this node's addresses", "another CIDR"),
    "own prefix": (NOT_APPROVED, "10.244.1.0/24 is in force, so answers find back", "approve it"),
    "not accepted": (linked(Link.ACCEPTED, lost()), "other nodes accept 10.244.1.0/24", "what to do"),
    "no IPv4 here": (replace(WELL, chains=(chain(OWN6),)), "answers find back", "network.podCIDR.nodeLocal"),
    "silent": (replace(WELL, ways=(way(delivered=lost()),)), "packets to 10.244.2.0/24 are answered", "look on n2"),
    "mtu": (found(Trouble.MTU), "large packets fit", "network.mtu"),
}


@pytest.mark.usefixtures("lives")
@pytest.mark.parametrize(("view", "link", "cure"), BROKEN.values(), ids=BROKEN)
def test_why_marks_the_broken_link_and_ends_with_its_cure(node, view, link, cure):
    node.see(view)
    code, out, _ = node.mesh("why", OTHER, "-o", "wide")
    assert code == 1
    [marked] = [line for line in out.splitlines() if line.startswith(">> BROKEN")]
    assert link in marked
    broken, last = out.splitlines()[-2:]
    assert broken.startswith(f"broken: {link}: ")
    assert last.startswith("cure:   ")
    assert cure in last


@pytest.mark.usefixtures("lives")
def test_only_the_first_of_several_broken_links_is_marked(node):
    node.see(replace(NOT_APPROVED, ways=(OFFLINE,), findings=found(Trouble.CIDR_CONFLICT).findings))
    _, out, _ = node.mesh("why", OTHER)
    marks = [line.split()[:2] for line in out.splitlines() if "roken " in line or "BROKEN" in line]
    assert marks == [[">>", "BROKEN"], ["broken", "10.244.1.0/24"], ["broken", "packets"], ["broken", "no"]]


@pytest.mark.usefixtures("lives")
@pytest.mark.parametrize(
    ("view", "unknown"),
    [
        (linked(Link.SERVING, state(Holds.UNKNOWN)), "10.244.1.0/24 is in force, so answers find back"),
        (linked(Link.ACCEPTED, state(Holds.UNKNOWN)), "other nodes accept 10.244.1.0/24"),
        (replace(WELL, ways=(way(delivered=state(Holds.UNKNOWN)),)), "packets to 10.244.2.0/24 are answered"),
        (replace(WELL, ways=(way(online=False),)), "n2 is online"),
    ],
    ids=["serving", "accepted", "never probed", "offline but answering"],
)
def test_what_nobody_could_see_is_unknown_and_does_not_count_as_well(node, view, unknown):
    node.see(view)
    assert node.steps(OTHER) == {unknown: "unknown"}
    assert "not every link could be seen" in node.mesh("why", OTHER)[1]


@pytest.mark.usefixtures("lives")
def test_outside_of_the_tailnet_nobody_can_tell_whose_an_address_is(node):
    node.see(replace(WELL, state="NeedsLogin", ways=()))
    assert node.steps(OTHER)["a node of the tailnet has it"] == "unknown"


@pytest.mark.usefixtures("lives")
def test_of_pods_that_are_announced_one_by_one_the_worst_off_stands_for_the_way_back(node):
    lame = chain(ip_network("10.244.1.8/32"), serving=state(Holds.UNKNOWN))
    node.see(replace(WELL, chains=(chain(ip_network("10.244.1.7/32")), lame, chain(ip_network("10.244.1.9/32")))))
    assert node.steps(OTHER) == {"10.244.1.8/32 is in force, so answers find back": "unknown"}


@pytest.mark.usefixtures("lives")
def test_where_nobody_has_the_address_a_lost_headscale_is_the_first_thing_to_mend(node):
    node.see(replace(found(Trouble.CONTROL_LOST), ways=NO_WAY))
    expected = ["Headscale keeps this node informed", "a node of the tailnet has it"]
    assert list(node.steps(OTHER)) == expected


@pytest.mark.usefixtures("lives")
def test_what_only_an_exit_nodes_clients_suffer_from_is_no_broken_link(node):
    warning = exit_node_warning(Prefs(advertise=("0.0.0.0/0",), raw={"NoSNAT": True}))
    node.see(replace(WELL, findings=(warning,)))
    assert node.steps(OTHER) == {}


@pytest.mark.usefixtures("lives")
def test_two_nodes_with_one_prefix_are_both_named(node):
    node.see(replace(WELL, ways=(way(), way(name="n9", routed=False))))
    assert "n2 has 10.244.2.0/24; so has n9" in node.mesh("why", OTHER)[1]


@pytest.mark.usefixtures("lives")
def test_the_longest_prefix_is_the_way(node):
    node.see(replace(WELL, ways=(way("10.244.0.0/16", "router"), way(), way("0.0.0.0/0", "exit"))))
    assert "a pod of n2, 10.244.2.0/24" in node.mesh("why", OTHER)[1]


@pytest.mark.usefixtures("lives")
@pytest.mark.parametrize("query", ["192.0.2.1", "10.245.0.1", "fd99::1"])
def test_an_address_outside_of_the_cluster_is_no_pods(node, query):
    node.see(WELL)
    code, out, err = node.mesh("why", query)
    assert (code, out) == (1, "")
    assert f"{query} is no pod address" in err


@pytest.mark.usefixtures("lives")
@pytest.mark.parametrize(
    ("device", "holds"), [("tailscale0", None), ("", "no"), ("eth0", "no")], ids=["mesh", "refused", "in clear"]
)
def test_what_the_kernel_says_now_is_a_link_of_its_own(node, monkeypatch, device, holds):
    monkeypatch.setattr(mesh_why, "kernel_way", lambda address: KernelWay(device, "told by the kernel"))
    node.see(WELL)
    assert node.steps(OTHER).get("the kernel leads 10.244.2.7 to tailscale0") == holds


def test_an_old_view_is_no_proof_even_where_every_link_held(node):
    node.see(WELL)
    code, out, _ = node.mesh("why", OTHER)
    assert code == 1
    assert "LAST KNOWN STATE" in out
    assert out.endswith("every link holds, or did when it was last seen\n")


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (WayTo(52, "tailscale0"), KernelWay("tailscale0", "tailscale0, by table 52")),
        (WayTo(refused="No route to host"), KernelWay("", "nowhere: No route to host")),
        (PermissionError(1, "Operation not permitted"), None),
    ],
    ids=["mesh", "fence", "not permitted"],
)
def test_what_the_kernel_says_may_be_left_out(monkeypatch, answer, shown):
    def way_to(self, address):
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(MeshLink, "way_to", way_to)
    assert kernel_way(ip_address(OTHER)) == shown


# --- why: to a pod of this node


@pytest.mark.usefixtures("lives")
@pytest.mark.parametrize("query", ["web-0", "default/web-0", WEB0.container[:8]])
def test_a_pod_of_this_node_is_found_by_its_name_with_both_its_addresses(node, query):
    node.see(WELL)
    node.put(WEB0)
    code, out, _ = node.mesh("why", query)
    assert code == 0
    assert "to 10.244.1.7, a pod of this node, 10.244.1.0/24" in out
    assert "to fd00:244:1::7, a pod of this node, fd00:244:1::/64" in out
    assert "default/web-0, advertised" in out


@pytest.mark.usefixtures("lives")
def test_a_local_pod_whose_prefix_others_do_not_get(node):
    node.see(NOT_APPROVED)
    node.put(WEB0)
    assert node.steps("10.244.1.7") == {"10.244.1.0/24 is approved": "no"}
    assert node.mesh("why", "10.244.1.7")[1].endswith("cure:   approve it\n")


@pytest.mark.usefixtures("lives")
def test_a_local_pod_without_its_interface(node):
    node.see(WELL)
    node.put(in_state(State.ALLOCATED))
    assert node.steps("10.244.1.7") == {"its interface is there": "no"}
    assert "it is allocated" in node.mesh("why", "10.244.1.7")[1]


@pytest.mark.usefixtures("lives")
def test_an_address_of_this_node_that_no_pod_has(node):
    node.see(WELL)
    assert node.steps("10.244.1.9") == {"a pod of this node has the address": "no"}
    assert "headcni history 10.244.1.9" in node.mesh("why", "10.244.1.9")[1]
    assert node.steps("10.244.1.1") == {}


@pytest.mark.usefixtures("lives")
def test_a_local_pod_that_the_kernel_would_send_to_another_node(node, monkeypatch):
    monkeypatch.setattr(mesh_why, "kernel_way", lambda address: KernelWay("tailscale0", "dev tailscale0 table 52"))
    node.see(WELL)
    node.put(WEB0)
    assert node.steps("10.244.1.7") == {"the kernel leads 10.244.1.7 to hcni5d41402abc4b": "no"}


@pytest.mark.usefixtures("lives")
def test_a_prefix_the_view_does_not_know_is_unknown(node):
    node.see(replace(WELL, chains=(chain(ip_network("10.244.1.0/25")), chain(OWN6))))
    node.put(in_state(State.ADVERTISED))
    assert node.steps("10.244.1.130")["10.244.1.0/24 is announced"] == "unknown"


@pytest.mark.usefixtures("lives")
@pytest.mark.parametrize(
    ("records", "why"),
    [
        ((), "no pod of this node matches 'web-0'"),
        ((WEB0, in_state(State.ADVERTISED, container="d0" * 32)), "2 attachments match 'web-0'"),
        ((in_state(State.REQUESTED),), "'web-0' has no address yet"),
    ],
    ids=["none", "two", "no address"],
)
def test_a_name_that_leads_to_no_address_is_refused_with_a_cure(node, records, why):
    node.see(WELL)
    node.put(*records)
    code, out, err = node.mesh("why", "web-0")
    assert (code, out) == (1, "")
    assert why in err
    assert len(err.splitlines()) == 2


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
