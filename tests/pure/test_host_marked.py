"""Fence, guard and gateways as decisions: what is added, what is removed, what is told."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from reconciler.node import dump, fence, gateways, guard, kept, requests
from reconciler.node.dump import LinkAddress, Route, Rule
from reconciler.node.kept import Change, Kept
from reconciler.wiring.netlink import Answer
from reconciler.wiring.requests import Failure

LINKS = {1: "lo", 2: "eth0", 3: "cni0", 9: "hc0a1b2c3d"}
CLUSTER, CLUSTER6 = ip_network("10.244.0.0/16"), ip_network("fd00:244::/32")
OWN = ip_network("10.244.1.0/24")
UNICAST, BLACKHOLE, UNREACHABLE = 1, 6, 7


def name(index):
    return LINKS[index]


def route(dst, via=None, link=2, protocol=3, kind=UNICAST, metric=0):
    return Route(ip_network(dst), protocol, ip_address(via) if via else None, link, kind, metric)


def fenced(dst, **changes):
    return route(dst, **{"link": 0, "protocol": 72, "kind": UNREACHABLE, "metric": 4000, **changes})


def rule(dst, protocol=72, preference=5000, table=254, plain=True):
    return Rule(preference, ip_network(dst), table, protocol, plain)


# --- the fence


def test_each_network_is_fenced_once():
    assert fence.plan([CLUSTER, CLUSTER6, CLUSTER], []) == Change((CLUSTER, CLUSTER6), ())


def test_what_stands_needs_nothing_and_what_is_no_longer_wished_goes():
    present = [fenced("10.244.0.0/16"), fenced("10.9.0.0/16"), fenced("fd00:244::/32", link=1)]
    assert fence.plan([CLUSTER, CLUSTER6], present) == Change((), (ip_network("10.9.0.0/16"),))


@pytest.mark.parametrize(
    "other",
    [
        fenced("10.244.0.0/16", protocol=3, metric=4001),
        fenced("10.244.0.0/16", kind=BLACKHOLE, metric=0),
        route("10.244.0.0/16", "192.0.2.1"),
        route("10.244.0.0/16", "192.0.2.1", protocol=72),
    ],
)
def test_other_routes_to_the_same_network_neither_count_nor_go(other):
    assert fence.plan([CLUSTER], [other]) == Change((CLUSTER,), ())
    assert fence.plan([], [other]) == Change((), ())


def test_the_very_same_of_somebody_else_is_left_to_them():
    assert fence.plan([CLUSTER], [fenced("10.244.0.0/16", protocol=3)]) == Change((), ())
    assert fence.plan([], [fenced("10.244.0.0/16", protocol=3)]) == Change((), ())


def gaps(*routes, local=(OWN,)):
    return [problem.what for problem in fence.gaps((CLUSTER, CLUSTER6), local, routes, name)]


@pytest.mark.parametrize(
    "leading_out",
    [
        route("10.244.2.0/24", "192.0.2.1"),
        route("10.244.2.7/32"),
        route("10.244.0.0/16", "192.0.2.1", metric=3999),
        route("10.244.0.0/16", "192.0.2.1", metric=4000),
        route("10.244.1.64/26", "192.0.2.1"),
        route("10.244.1.0/24", link=0),
        route("10.244.2.0/24", link=3, protocol=2),
        route("fd00:244:2::/64", "fe80::1", metric=1024),
    ],
    ids=lambda each: f"{each.dst} {each.metric}",
)
def test_a_route_of_others_that_outdoes_the_fence_is_told(leading_out):
    (what,) = gaps(leading_out)
    assert str(leading_out.dst) in what


@pytest.mark.parametrize(
    "harmless",
    [
        route("0.0.0.0/0", "192.0.2.1"),
        route("::/0", "fe80::1"),
        route("10.0.0.0/8", "192.0.2.1"),
        route("10.245.0.0/24", "192.0.2.1"),
        route("10.244.0.0/16", "192.0.2.1", metric=4001),
        route("10.244.2.0/24", "192.0.2.1", protocol=72),
        route("10.244.2.0/24", link=0, kind=BLACKHOLE),
        route("10.244.1.0/24", link=3, protocol=2),
        route("10.244.1.9/32", link=3),
        route("10.244.9.9/32", link=9),
        fenced("10.244.2.0/24", protocol=3),
    ],
    ids=lambda each: f"{each.dst} {each.metric}",
)
def test_a_route_that_leads_no_packet_out_is_no_gap(harmless):
    assert gaps(harmless) == []


def test_a_gap_is_told_with_what_closes_it():
    (problem,) = fence.gaps((CLUSTER,), (), [route("10.244.2.0/24", "192.0.2.1", metric=7)], name)
    assert problem.what == (
        "the route 10.244.2.0/24 via 192.0.2.1 dev eth0, of protocol 3, leads packets for the pods of 10.244.0.0/16 "
        "past the mesh"
    )
    assert problem.cure.startswith("remove it: ip route del 10.244.2.0/24 via 192.0.2.1 dev eth0 metric 7; ")


# --- the guard


def test_rules_are_added_and_removed():
    present = [rule("10.244.1.0/24"), rule("10.9.0.0/16")]
    assert guard.plan([OWN, CLUSTER6], present) == Change((CLUSTER6,), (ip_network("10.9.0.0/16"),))


@pytest.mark.parametrize(
    "other",
    [
        rule("10.244.1.0/24", preference=5001),
        rule("10.244.1.0/24", table=52),
        rule("10.244.1.0/24", plain=False),
        rule("10.244.0.0/16", protocol=3),
    ],
)
def test_other_rules_neither_count_nor_go(other):
    assert guard.plan([OWN], [other]) == Change((OWN,), ())
    assert guard.plan([], [other]) == Change((), ())


def test_the_very_same_rule_of_somebody_else_is_left_to_them():
    assert guard.plan([OWN], [rule("10.244.1.0/24", protocol=0)]) == Change((), ())
    both = [rule("10.244.1.0/24", protocol=0), rule("10.244.1.0/24")]
    assert guard.plan([OWN], both) == Change((), ())
    assert guard.plan([], both) == Change((), (OWN,))


# --- gateways

GATEWAY = ip_address("10.244.1.1")


def held(address, link=1, ours=False, prefix=32):
    return LinkAddress(ip_address(address), prefix, link, ours)


def test_only_lo_counts_and_only_ours_go():
    assert gateways.plan([GATEWAY], [held("10.244.1.1", link=3)]) == Change((GATEWAY,), ())
    assert gateways.plan([GATEWAY], [held("10.244.1.1", ours=True)]) == Change((), ())
    assert gateways.plan([GATEWAY], [held("10.244.1.1", prefix=24)]) == Change((), ())
    present = [held("10.244.1.1", ours=True), held("10.244.1.7"), held("10.244.1.1", link=3)]
    assert gateways.plan([], present) == Change((), (GATEWAY,))


# --- carrying it out


class Refusing:
    """A kernel that refuses what it is told to refuse."""

    def __init__(self, **errors: int) -> None:
        self.errors = errors
        self.asked: list[str] = []

    def __call__(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def ask(self, asked):
        self.asked += [each.what for each in asked]
        refused = [(each, errno) for each in asked for word, errno in self.errors.items() if each.what.startswith(word)]
        return Answer(tuple(Failure(each, errno, "no such luck") for each, errno in refused), {})


@pytest.fixture
def kernel(monkeypatch):
    kernel = Refusing()
    monkeypatch.setattr(kept, "Netlink", kernel)
    return kernel


def test_all_goes_in_one_batch_additions_first(kernel):
    part = Kept(requests.fence)
    words = "route unreachable {} metric 4000 proto 72"
    assert part.write(Change((CLUSTER,), (OWN,))) == (f"{words.format(CLUSTER)}: add", f"{words.format(OWN)}: del")
    assert [each.split()[0] for each in kernel.asked] == ["add", "delete"]


def test_nothing_to_do_asks_nothing(kernel):
    assert Kept(requests.fence).write(Change((), ())) == ()
    assert kernel.asked == []


def test_a_refusal_is_told_with_the_kernels_words_until_a_write_succeeds(kernel):
    part = Kept(requests.guard)
    missing = Change((OWN,), ())
    assert part.problems(missing)[0].what.endswith("is missing")
    kernel.errors = {"add": 1}
    assert part.write(missing) == ()
    (problem,) = part.problems(missing)
    assert problem.what.endswith(" is not set: Operation not permitted: no such luck")
    assert "CAP_NET_ADMIN" in problem.cure
    kernel.errors = {}
    part.write(missing)
    assert part.problems(Change((), ())) == ()
    assert part.problems(missing)[0].what.endswith("is missing")


def test_what_cannot_be_removed_is_told_with_the_command(kernel):
    kernel.errors = {"delete": 1}
    part = Kept(requests.guard)
    (problem,) = part.restore(Change((), (OWN,)))
    assert "is not removed: Operation not permitted" in problem.what
    assert problem.cure == f"remove it: {requests.guard(OWN).by_hand('del')}"
    assert part.problems(Change((), (OWN,))) == (problem,)


@pytest.mark.parametrize("errno", [2, 3, 99])  # of a rule, a route, an address
def test_gone_is_as_good_as_removed(kernel, errno):
    kernel.errors = {"delete": errno}
    assert Kept(requests.guard).restore(Change((), (OWN,))) == ()


# --- looking


@pytest.mark.parametrize(("errno", "read"), [(95, dump.rules), (2, dump.main_routes), (19, dump.main_routes)])
def test_a_kernel_that_has_no_such_thing_has_none(monkeypatch, errno, read):
    """Without policy routing; without the table; without the link any more."""

    def refuse(netlink, request):
        raise OSError(errno, "no")

    monkeypatch.setattr(dump.Netlink, "dump", refuse)
    assert read() == []


def test_any_other_refusal_is_a_fault(monkeypatch):
    def refuse(netlink, request):
        raise OSError(1, "no")

    monkeypatch.setattr(dump.Netlink, "dump", refuse)
    with pytest.raises(PermissionError):
        dump.rules()
