"""Which source wins, what is told of those that lose, and what is not believed."""

from __future__ import annotations

from ipaddress import ip_network as net

import pytest

from cni.spec import Refusal
from reconciler.kube.codes import Trouble
from reconciler.node.formats import About
from reconciler.node.podcidr import Evidence, Said, Source, judge

S = Source
NETS = {
    name: (net(f"10.244.{number}.0/24"),) for number, name in enumerate(("own", "env", "file", "file2", "api", "old"))
}
OWN = (
    Said(S.CONFIGURATION, "flag --pod-cidr: network.podCIDR.nodeLocal", NETS["own"]),
    Said(S.ENVIRONMENT, "NODE_POD_CIDR", NETS["env"]),
    Said(S.FILES, "/kubelet: podCIDR", NETS["file"], phrase="Found Pod CIDR in kubelet config"),
    Said(S.FILES, "/k3s: podCIDR", NETS["file2"], phrase="Found Pod CIDR in k3s node file"),
    Said(S.API, "Node.spec.podCIDRs", NETS["api"]),
    Said(S.REMEMBERED, "an earlier start, from api", NETS["old"], weak=True),
)
STATED = Said(S.FILES, "/kcm: --cluster-cidr", (net("10.244.0.0/16"),))
BASE = Said(S.CONFIGURATION, "file /c: network.podCIDR.base", (net("10.244.0.0/16"),))
DEFAULT = Said(S.DEFAULT, "default of network.podCIDR.base", (net("10.244.0.0/16"),), weak=True)
SERVICES = Said(S.DEFAULT, "default of network.serviceCIDR", (net("10.96.0.0/16"),), weak=True)
PHRASES = [
    "Using Pod CIDR from config",
    "Using Pod CIDR from environment variable",
    "Found Pod CIDR in kubelet config",
    "Found Pod CIDR in k3s node file",
    "Found Pod CIDR in PodCIDRs",
    "Using Pod CIDR of an earlier start",
]


def silent(said: Said) -> Said:
    return Said(said.source, said.looked_at, why="not set")


def evidence(own=(), cluster=(), services=(), **more) -> Evidence:
    given = {"node": "worker-1", "per_node": 24, **more}
    return Evidence(own=tuple(own), cluster=(*cluster, DEFAULT), services=(*services, SERVICES), **given)


def files(*cidrs: str) -> Said:
    return Said(S.FILES, "/kubelet: podCIDR", tuple(map(net, cidrs)))


def codes(choice) -> list[int]:
    return [each.code for each in choice.warnings]


def warning(choice, code: Trouble) -> Refusal:
    return next(each for each in choice.warnings if each.code == code)


def finding(choice, looked_at: str):
    return next(each for each in choice.findings if each.looked_at.startswith(looked_at))


# --- the order


@pytest.mark.parametrize("winner", range(6))
def test_each_source_wins_when_all_before_it_are_silent(winner):
    own = [silent(said) for said in OWN[:winner]] + list(OWN[winner:])
    choice = judge(evidence(own, [STATED]))
    assert choice.cidrs == OWN[winner].cidrs
    assert (choice.source, choice.looked_at) == (OWN[winner].source, OWN[winner].looked_at)
    assert choice.phrase == PHRASES[winner]
    assert not choice.guess
    taken = [each for each in choice.findings if each.taken and each.about is About.NODE]
    assert [each.found for each in taken] == [choice.cidrs]


def test_every_source_is_shown_in_its_order_with_what_it_said():
    choice = judge(evidence(OWN, [STATED]))
    own = [each for each in choice.findings if each.about is About.NODE]
    assert [each.source for each in own] == [
        *(S.CONFIGURATION, S.ENVIRONMENT, S.FILES, S.FILES, S.API, S.REMEMBERED, S.SHARE, S.DEFAULT)
    ]
    assert [each.found for each in own[:6]] == [said.cidrs for said in OWN]
    assert all(each.why for each in own)


def test_then_comes_a_share_of_the_cluster_cidr_and_it_is_loud():
    choice = judge(evidence([silent(said) for said in OWN], [Said(S.FILES, "/kcm", (net("10.10.0.0/16"),))]))
    assert (choice.source, choice.cidrs, choice.guess) == (S.SHARE, (net("10.10.61.0/24"),), True)
    assert choice.looked_at == "/kcm = 10.10.0.0/16"
    assert choice.phrase == "Guessed Pod CIDR from cluster CIDR"
    assert choice.cluster_cidrs == (net("10.10.0.0/16"),)
    guess = warning(choice, Trouble.CIDR_GUESSED)
    assert "10.10.61.0/24 is only a GUESS from the node's name, worker-1" in guess.msg
    assert "network.podCIDR.nodeLocal" in guess.details


def test_and_last_a_share_of_the_default():
    choice = judge(evidence())
    assert (choice.source, choice.cidrs, choice.guess) == (S.DEFAULT, (net("10.244.61.0/24"),), True)
    assert choice.phrase == "Guessed Pod CIDR from default cluster CIDR"
    assert codes(choice) == [Trouble.CIDR_GUESSED]


def test_both_families_of_a_cluster_are_shared():
    choice = judge(evidence(cluster=[Said(S.FILES, "/k", (net("10.1.0.0/16"), net("fd00:1::/56")))]))
    assert choice.cidrs == (net("10.1.61.0/24"), net("fd00:1:0:3d::/64"))


def test_a_refusal_of_the_api_is_shown_and_the_next_is_tried():
    refused = Refusal(Trouble.API_UNREACHABLE, "192.0.2.1:6443 refused the connection", "start it")
    choice = judge(evidence([Said(S.API, "Node", trouble=refused)]))
    assert finding(choice, "Node").trouble == refused
    assert finding(choice, "Node").why == refused.msg
    assert codes(choice) == [Trouble.CIDR_GUESSED]  # who talks to the API tells of its troubles


# --- sources that disagree


def test_the_earlier_wins_and_the_later_is_named():
    choice = judge(evidence([files("10.244.3.0/24"), OWN[4]]))
    assert choice.cidrs == (net("10.244.3.0/24"),)
    disagreement = finding(choice, "Node.spec").trouble
    assert disagreement.code == Trouble.SOURCES_DISAGREE
    assert disagreement.msg == (
        "Node.spec.podCIDRs says the pod CIDR is 10.244.4.0/24, but /kubelet: podCIDR says 10.244.3.0/24"
    )
    assert "10.244.3.0/24 is used" in disagreement.details
    assert choice.warnings == (disagreement,)


def test_two_files_that_disagree_are_a_warning():
    choice = judge(evidence([files("10.244.2.0/24"), OWN[3]]))
    assert codes(choice) == [Trouble.SOURCES_DISAGREE]


def test_the_order_of_two_families_is_no_disagreement():
    other = Said(S.FILES, "/k3s", (net("fd00::/64"), net("10.244.3.0/24")))
    choice = judge(evidence([files("10.244.3.0/24", "fd00::/64"), other], [Said(S.CONFIGURATION, "b", (net("::/0"),))]))
    assert finding(choice, "/k3s").trouble is None
    assert finding(choice, "/k3s").why == "the same as /kubelet: podCIDR"


def test_what_is_remembered_or_a_default_cannot_disagree():
    choice = judge(
        evidence([files("10.244.3.0/24"), OWN[5]], [Said(S.FILES, "k3s", (net("10.42.0.0/16"),), weak=True)])
    )
    assert choice.warnings == ()


def test_two_cluster_cidrs():
    later = Said(S.FILES, "/kubeadm: networking.podSubnet", (net("10.99.0.0/16"),))
    choice = judge(evidence([files("10.244.3.0/24")], [BASE, later]))
    assert choice.cluster_cidrs == BASE.cidrs
    assert "says the cluster CIDR is 10.99.0.0/16" in warning(choice, Trouble.SOURCES_DISAGREE).msg


def test_a_cluster_file_of_other_days_does_not_displace_the_default_that_fits():
    choice = judge(evidence([OWN[0]], [Said(S.FILES, "/calico", (net("192.168.0.0/16"),))]))
    assert choice.cluster_cidrs == DEFAULT.cidrs
    assert codes(choice) == [Trouble.SOURCES_DISAGREE]


def test_a_file_outside_the_configured_base_is_used_and_told():
    choice = judge(evidence([files("10.99.3.0/24")], [BASE]))
    assert choice.cidrs == (net("10.99.3.0/24"),)
    told = warning(choice, Trouble.SOURCES_DISAGREE)
    assert "10.99.3.0/24 of /kubelet: podCIDR is outside the cluster CIDR 10.244.0.0/16" in told.msg
    assert "network.podCIDR.base" in told.details


# --- what is not believed: the next source is tried


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        (files("10.244.3.7/32"), Trouble.SOURCE_INVALID, "has no room for a pod"),
        (files("fd00::/64"), Trouble.SOURCE_INVALID, "is IPv6, and IPv4 is asked for by 10.244.0.0/16 of file /c"),
        (files("10.97.1.0/24"), Trouble.OVERLAP, "10.97.1.0/24 overlaps 10.97.0.0/16, the CIDR of Services"),
    ],
)
def test_a_file_that_cannot_be_right(said, code, words):
    services = Said(S.FILES, "/kcm: --service-cluster-ip-range", (net("10.97.0.0/16"),))
    choice = judge(evidence([said, OWN[4]], [BASE], [services]))
    assert choice.source is S.API
    told = warning(choice, code)
    assert "/kubelet: podCIDR" in told.msg
    assert words in told.msg
    assert told.details


def test_one_of_two_families_is_enough():
    assert judge(evidence([files("10.244.3.0/24", "fd00::/64")], [BASE])).source is S.FILES


@pytest.mark.parametrize("cluster", [[], [Said(S.FILES, "default of k3s", (net("10.42.0.0/16"),), weak=True)]])
def test_a_default_asks_for_no_family(cluster):
    assert judge(evidence([files("fd00::/64")], cluster)).cidrs == (net("fd00::/64"),)


@pytest.mark.parametrize(
    ("cluster", "more", "words"),
    [
        ("10.10.0.0/25", {}, "network.podCIDR.perNode /24 is wider than the 10.10.0.0/25 of /kcm"),
        ("10.10.0.0/23", {"nodes": 3}, "has room for 2 nodes with a /24 each, and 3 are known"),
        ("fd00::/96", {}, "fd00::/96 of /kcm is narrower than one node's /64"),
    ],
)
def test_a_cluster_cidr_without_a_share_for_this_node(cluster, more, words):
    choice = judge(evidence(cluster=[Said(S.FILES, "/kcm", (net(cluster),))], **more))
    assert (choice.source, choice.cidrs, choice.cluster_cidrs) == (S.DEFAULT, (net("10.244.61.0/24"),), DEFAULT.cidrs)
    assert words in warning(choice, Trouble.SOURCE_INVALID).msg


def test_a_cluster_cidr_among_services_is_passed_over():
    services = Said(S.CONFIGURATION, "file /c: network.serviceCIDR", (net("10.96.0.0/12"),))
    choice = judge(evidence(cluster=[Said(S.FILES, "/kcm", (net("10.100.0.0/16"),))], services=[services]))
    assert choice.source is S.DEFAULT
    assert warning(choice, Trouble.OVERLAP)


def test_nothing_at_all_can_be_taken():
    services = Said(S.CONFIGURATION, "file /c: network.serviceCIDR", (net("10.244.0.0/16"),))
    choice = judge(evidence(services=[services]))
    assert (choice.cidrs, choice.cluster_cidrs, choice.phrase) == ((), (), "Found no Pod CIDR")
    assert "not even a guess" in warning(choice, Trouble.CIDR_GUESSED).msg


# --- services


def test_services_of_a_file_count_more_than_the_default():
    choice = judge(evidence([OWN[0]], services=[Said(S.FILES, "/kcm", (net("10.43.0.0/16"),))]))
    assert choice.service_cidrs == (net("10.43.0.0/16"),)


def test_the_default_of_services_gives_way_to_pods():
    choice = judge(evidence([files("10.96.3.0/24")]))
    assert (choice.cidrs, choice.service_cidrs) == ((net("10.96.3.0/24"),), ())
    assert "the default of network.serviceCIDR, 10.96.0.0/16, is not used" in warning(choice, Trouble.OVERLAP).msg


def test_an_operators_pods_among_a_files_services_are_told():
    own = Said(S.CONFIGURATION, "flag --pod-cidr: network.podCIDR.nodeLocal", (net("10.43.1.0/24"),))
    choice = judge(evidence([own], services=[Said(S.FILES, "/kcm", (net("10.43.0.0/16"),))]))
    assert choice.cidrs == own.cidrs
    assert "pods have 10.43.1.0/24, and Services 10.43.0.0/16" in warning(choice, Trouble.OVERLAP).msg


# --- what was remembered


def remembered(cidr: str, **more) -> Said:
    return Said(S.REMEMBERED, "an earlier start, from share", (net(cidr),), weak=True, **more)


def test_a_remembered_guess_outlives_the_files_it_came_from():
    choice = judge(evidence([remembered("10.42.61.0/24", guess=True)]))
    assert (choice.source, choice.cidrs, choice.guess) == (S.REMEMBERED, (net("10.42.61.0/24"),), True)


@pytest.mark.parametrize("per_node", [24, 25])
def test_a_remembered_guess_counts_while_it_is_a_share(per_node):
    choice = judge(evidence([remembered("10.244.7.0/24", guess=True)], [BASE], per_node=per_node))
    assert choice.source is (S.REMEMBERED if per_node == 24 else S.SHARE)


def test_a_remembered_guess_of_another_cluster_cidr_is_dropped_quietly():
    choice = judge(evidence([remembered("10.42.61.0/24", guess=True)], [BASE]))
    assert choice.source is S.SHARE
    assert "no share of 10.244.0.0/16" in finding(choice, "an earlier start").why
    assert codes(choice) == [Trouble.CIDR_GUESSED]


def test_what_the_api_once_said_is_no_guess():
    choice = judge(evidence([remembered("10.99.1.0/24")], [BASE]))
    assert (choice.source, choice.guess) == (S.REMEMBERED, False)


# --- clashes


@pytest.mark.parametrize(
    ("route", "clash"), [("10.244.61.0/24", True), ("10.244.61.128/25", True), ("10.244.0.0/16", False)]
)
def test_a_guess_where_a_static_route_leads_to_another_nodes_pods(route, clash):
    choice = judge(evidence(routes=(net(route),)))
    assert (Trouble.CIDR_CLASH in codes(choice)) is clash
    if clash:
        assert f"10.244.61.0/24 overlaps {route} of a static route" in warning(choice, Trouble.CIDR_CLASH).msg
