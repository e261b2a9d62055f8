"""`headcni mesh why` on views as a daemon leaves them: which link is broken, and how to mend it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from mesh_node import OTHER, WEB0, mesh_node
from mesh_views import NOT_APPROVED, OWN6, WELL, chain, found, linked, refusal, state, way
from samples import in_state

from reconciler.mesh.codes import Trouble
from reconciler.mesh.model import Holds, Link, Prefs
from reconciler.mesh.preferences import exit_node_warning
from reconciler.mesh.why import KernelWay
from reconciler.node.meshlink import MeshLink, WayTo
from reconciler.operate import mesh_why
from reconciler.operate.mesh_kernel import kernel_way
from statemachine.attachment import State


@pytest.fixture
def node(tmp_path, capsys, monkeypatch):
    return mesh_node(tmp_path, capsys, monkeypatch)


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
