"""Whether one can leave Flannel, why not, and what it changes: from what was seen to what is told."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from cni.spec import Refusal
from reconciler.config import Config, load
from reconciler.kube.codes import Trouble
from reconciler.migrate.cluster import Cluster, DaemonSet, KubeNode, KubePod
from reconciler.migrate.flannel import K3S_NET_CONF, Found
from reconciler.migrate.formats import Lease, NetConf, SubnetEnv
from reconciler.migrate.leftovers import leftovers
from reconciler.migrate.links import Link, is_flannels
from reconciler.migrate.plan import plan
from reconciler.migrate.seen import Seen
from reconciler.migrate.steps import steps
from reconciler.node.confdir import Conf
from reconciler.node.dump import Route
from reconciler.node.listings import Chain
from reconciler.node.podcidr import judge
from reconciler.node.sources import look

CLUSTER, OWN, OTHER = (ip_network(f"10.244.{each}") for each in ("0.0/16", "1.0/24", "2.0/24"))
ENV = SubnetEnv((CLUSTER,), (OWN,), 1450, True)
CONF = NetConf((CLUSTER,), "vxlan")
FLANNEL = Conf("/etc/cni/net.d/10-flannel.conflist", "cbr0", ("flannel", "portmap"))
HERE = Found(subnet_env=ENV, net_conf=CONF, confs=(FLANNEL,))
LEASE = Lease("vxlan", "192.0.2.11")
ME = KubeNode("a", (OWN,), LEASE, kernel="6.1.0-13-amd64")
THEM = KubeNode("b", (OTHER,), LEASE, kernel="6.1.0-13-amd64")
KUBE = Cluster("https://192.0.2.1:6443", (ME, THEM), ())
BROKEN = Refusal(Trouble.SOURCE_INVALID, "subnet.env has no FLANNEL_MTU", "see that Flannel runs")


def choice(tmp_path, api=None, **settings):
    config = load({"node.name": "a", "node.root": str(tmp_path), **settings}, {}, None)
    assert isinstance(config, Config)
    return judge(look(config, {}, api=api))


@pytest.fixture
def seen(tmp_path):
    def made(here=HERE, cluster=KUBE, api=(OWN,), **settings):
        given = {key.replace("_", "."): value for key, value in settings.items()}
        return Seen("a", here, choice(tmp_path, api, **given), cluster)

    return made


def why_not(seen):
    decided = plan(seen)
    assert decided.possible is not bool(decided.reasons)
    assert all(each.msg and each.details for each in (*decided.reasons, *decided.remarks))
    return [(int(each.code), each.msg) for each in decided.reasons]


# --- possible, or what first


def test_a_usual_cluster_can_begin(seen):
    decided = plan(seen())
    assert decided.possible
    assert (decided.reasons, decided.remarks) == ((), ())
    assert decided.carried_by == "a VXLAN tunnel"


def test_without_the_api_a_guess_is_a_remark_and_no_obstacle(seen):
    decided = plan(seen(cluster=None, api=None))
    assert decided.possible
    assert [int(each.code) for each in decided.remarks] == [Trouble.API_UNREACHABLE, Trouble.CIDR_GUESSED]
    assert "Flannel has 10.244.1.0/24" in decided.remarks[1].msg


ONLY_SIX = SubnetEnv((ip_network("fd42:244::/48"),), (ip_network("fd42:244:0:1::/64"),), 1430, True)
SHARED = SubnetEnv((ip_network("100.64.0.0/12"),), (ip_network("100.64.1.0/24"),), 1450, True)


@pytest.mark.parametrize(
    ("here", "cluster", "code", "words"),
    [
        (replace(HERE, subnet_env=BROKEN), KUBE, 161, "subnet.env has no FLANNEL_MTU"),
        (replace(HERE, net_conf=BROKEN), KUBE, 161, "has no FLANNEL_MTU"),
        (HERE, replace(KUBE, net_conf=BROKEN), 161, "has no FLANNEL_MTU"),
        (Found(), None, 161, "Flannel is not in use"),
        (Found(), replace(KUBE, nodes=(replace(ME, lease=None),)), 161, "Flannel is not in use"),
        (replace(HERE, subnet_env=None), None, 160, "there is no /run/flannel/subnet.env"),
        (
            replace(HERE, subnet_env=replace(ENV, subnets=(ip_network("10.99.1.0/24"),))),
            None,
            162,
            "the subnet 10.99.1.0/24 is outside of the network 10.244.0.0/16",
        ),
        (
            replace(HERE, net_conf=replace(CONF, networks=(ip_network("10.99.0.0/16"),))),
            None,
            162,
            "Flannel is configured for 10.99.0.0/16, but runs with 10.244.0.0/16",
        ),
        (
            HERE,
            replace(KUBE, nodes=(replace(ME, pod_cidrs=(OTHER,)),)),
            162,
            "Flannel has 10.244.1.0/24 on the node a, and Kubernetes gave it 10.244.2.0/24",
        ),
        (HERE, replace(KUBE, nodes=(replace(ME, pod_cidrs=()),)), 163, "Kubernetes gave the node a no pod CIDR"),
        (HERE, replace(KUBE, nodes=(ME, replace(THEM, pod_cidrs=()))), 163, "Kubernetes gave the node b no pod CIDR"),
        (
            HERE,
            replace(KUBE, nodes=(ME, replace(THEM, pod_cidrs=(ip_network("10.9.0.0/24"),)))),
            162,
            "the node b has 10.9.0.0/24, outside of Flannel's network 10.244.0.0/16",
        ),
        (HERE, replace(KUBE, nodes=(ME, replace(THEM, system="windows"))), 161, "the node b runs windows"),
        (HERE, replace(KUBE, nodes=(ME, replace(THEM, kernel="4.18.0-553.el8"))), 161, "b runs Linux 4.18.0-553.el8"),
        (replace(HERE, subnet_env=ONLY_SIX, net_conf=None), None, 161, "pods have IPv6 only (fd42:244::/48)"),
        (
            replace(HERE, subnet_env=SHARED, net_conf=None),
            None,
            166,
            "100.64.0.0/12 overlaps 100.64.0.0/10, the addresses of the mesh",
        ),
    ],
)
def test_what_must_be_settled_first_is_told_alone(seen, here, cluster, code, words):
    ((told, what),) = why_not(seen(here, cluster, api=None))
    assert told == code
    assert words in what


def test_a_configuration_that_contradicts_flannel_is_told_with_its_place(seen):
    ((code, what),) = why_not(seen(cluster=None, api=None, network_podCIDR_nodeLocal="10.244.7.0/24"))
    assert code == Trouble.SOURCES_DISAGREE
    assert "network.podCIDR.nodeLocal says 10.244.7.0/24" in what
    assert why_not(seen(cluster=None, api=None, network_podCIDR_nodeLocal="10.244.1.0/24")) == []


def test_services_inside_the_pods_network_are_told_if_they_are_known_and_not_only_the_default(seen):
    ((code, what),) = why_not(seen(network_podCIDR_base="10.250.0.0/16", network_serviceCIDR="10.244.128.0/17"))
    assert (code, what) == (
        Trouble.OVERLAP,
        "the pods' network 10.244.0.0/16 overlaps 10.244.128.0/17, the addresses of Services",
    )
    inside = SubnetEnv((ip_network("10.96.0.0/12"),), (ip_network("10.97.1.0/24"),), 1450, True)
    assert why_not(seen(replace(HERE, subnet_env=inside, net_conf=None), None, api=None)) == []


@pytest.mark.parametrize("kernel", ["4.19.0", "5.15.0-91-generic", "6.18.44-fc-v657", "", "unknown"])
def test_a_kernel_that_is_new_enough_or_not_known_is_no_obstacle(seen, kernel):
    assert why_not(seen(cluster=replace(KUBE, nodes=(replace(ME, kernel=kernel),)))) == []


def test_a_node_without_a_pod_cidr_gets_the_command_that_gives_it_flannels(seen):
    (reason,) = plan(seen(cluster=replace(KUBE, nodes=(replace(ME, pod_cidrs=()),)), api=())).reasons
    assert reason.details == (
        """kubectl patch node a -p '{"spec":{"podCIDR":"10.244.1.0/24","podCIDRs":["10.244.1.0/24"]}}'"""
    )


def test_all_reasons_are_told_at_once(seen):
    bad = replace(KUBE, nodes=(replace(ME, system="windows"), replace(THEM, pod_cidrs=(), kernel="3.10.0")))
    assert [code for code, _ in why_not(seen(replace(HERE, net_conf=BROKEN), bad))] == [161, 161, 161, 163]


# --- remarks


@pytest.mark.parametrize(
    ("here", "cluster", "words"),
    [
        (
            HERE,
            Refusal(Trouble.API_UNREACHABLE, "nobody answers", "start it"),
            "nothing is said of other nodes: nobody",
        ),
        (
            HERE,
            replace(KUBE, pods=Refusal(177, "may not list pods", "grant it")),
            "which pods must restart is not known",
        ),
        (replace(HERE, confs=(replace(FLANNEL, types=("calico", "flannel")),)), KUBE, "has calico beside flannel"),
        (replace(HERE, confs=(replace(FLANNEL, path="/etc/cni/net.d/20-x.conf"),)), KUBE, "comes after 10-headcni"),
        (replace(HERE, net_conf_from=K3S_NET_CONF), KUBE, "--flannel-backend=none"),
        (replace(HERE, blind=("the command nft is missing",)), KUBE, "the command nft is missing"),
    ],
)
def test_what_is_only_to_be_known_is_no_obstacle(seen, here, cluster, words):
    decided = plan(seen(here, cluster))
    assert decided.possible
    (remark,) = decided.remarks
    assert words in remark.msg
    assert remark.details


# --- values


def values(seen):
    return plan(seen).values["config"]["network"]


def test_the_values_keep_flannels_network_and_the_size_of_a_nodes_share(seen):
    assert plan(seen()).values == {
        "config": {
            "network": {"podCIDR": {"base": "10.244.0.0/16", "perNode": "/24"}, "mtu": 0},
            "mesh": {"failClosed": False},
        }
    }


def test_the_values_of_other_networks(seen):
    dual = SubnetEnv((CLUSTER, *ONLY_SIX.networks), (OWN, *ONLY_SIX.subnets), 1450, False)
    here = replace(HERE, subnet_env=dual, net_conf=None)
    assert values(seen(here, None, api=None)) == {
        "podCIDR": {"base": ["10.244.0.0/16", "fd42:244::/48"], "perNode": "/24"},
        "mtu": 0,
        "masquerade": False,
    }
    small = replace(KUBE, nodes=(replace(ME, pod_cidrs=(ip_network("10.244.1.0/26"),)),))
    assert values(seen(Found(net_conf=CONF), small))["podCIDR"]["perNode"] == "/26"
    mixed = replace(KUBE, nodes=(ME, replace(THEM, pod_cidrs=(ip_network("10.244.2.0/26"),))))
    assert "perNode" not in values(seen(Found(net_conf=CONF), mixed))["podCIDR"]
    assert plan(seen(replace(HERE, net_conf_from=K3S_NET_CONF))).values["distribution"] == "k3s"


# --- nodes


def test_workers_move_first_and_of_them_those_with_the_fewest_pods(seen):
    names = ("master", "busy", "a", "calm")
    nodes = tuple(KubeNode(name, (OWN,), LEASE, control_plane=name == "master") for name in names)
    pods = (
        *(KubePod("busy", f"default/web-{number}", "ReplicaSet") for number in range(3)),
        KubePod("calm", "monitoring/agent-x", "DaemonSet"),
        KubePod("busy", "kube-system/static-busy", "Node"),
        KubePod("a", "default/db-0", "StatefulSet"),
    )
    moves = plan(seen(cluster=Cluster("x", nodes, pods))).moves
    assert [each.node for each in moves] == ["a", "calm", "busy", "master"]
    assert [each.here for each in moves] == [True, False, False, False]
    assert moves[0].drained == ("default/db-0",)
    assert moves[1].stay == ("monitoring/agent-x",)
    assert (moves[2].drained, moves[2].stay) == (
        ("default/web-0", "default/web-1", "default/web-2"),
        ("kube-system/static-busy",),
    )


def test_a_node_that_has_moved_has_no_pods_to_restart(seen):
    moved = replace(KUBE, nodes=(ME, replace(THEM, moved=True)), pods=(KubePod("a", "x/1"), KubePod("b", "x/2")))
    assert [(each.node, each.moved, each.drained) for each in plan(seen(cluster=moved)).moves] == [
        ("b", True, ()),
        ("a", False, ("x/1",)),
    ]


def test_k3s_is_known_from_afar_by_its_kubelets(seen):
    """It has neither DaemonSet nor ConfigMap, but leases."""
    cluster = replace(KUBE, nodes=(replace(ME, kubelet="v1.30.1+k3s1"),))
    decided = plan(seen(Found(), cluster))
    assert decided.possible
    assert decided.carried_by == "a VXLAN tunnel"
    assert decided.values["distribution"] == "k3s"
    assert ["is not known" in decided.remarks[0].msg, "--flannel-backend=none" in decided.remarks[1].msg] == [
        True,
        True,
    ]
    assert any("flannel-backend: none" in each.what for each in steps(seen(Found(), cluster)))
    with_daemon_set = replace(cluster, daemon_sets=(DaemonSet("kube-flannel", "kube-flannel-ds"),))
    assert "distribution" not in plan(seen(Found(), with_daemon_set)).values


def test_without_the_api_this_node_alone_is_told_and_its_pods_are_not_known(seen):
    (move,) = plan(seen(cluster=None, api=None)).moves
    assert (move.node, move.here, move.pod_cidrs, move.drained) == ("a", True, (OWN,), None)
    assert plan(seen(Found(), None, api=None)).moves == ()


# --- what is left, and what is to be done


CHAINS = (
    Chain("ip", "nat", "FLANNEL-POSTRTG"),
    Chain("ip", "filter", "FLANNEL-FWD"),
    Chain("ip6", "nat", "FLANNEL-POSTRTG", legacy=True),
    Chain("ip", "flannel-ipv4", "postrtg"),
    Chain("ip", "flannel-ipv4", "forward"),
)


def test_what_is_left_is_told_with_what_removes_it():
    routes = (
        (Route(OTHER, 4, ip_address("10.244.2.0"), 7), "flannel.1"),
        (Route(ip_network("10.244.3.0/24"), 4, ip_address("192.0.2.13"), 2), "eth0"),
    )
    found = replace(
        HERE,
        links=(Link("cni0", "bridge", 1450, ("10.244.1.1/24",), 2), Link("flannel.1", "vxlan", 1450)),
        routes=routes,
        chains=CHAINS,
        paths=("/run/flannel", FLANNEL.path, "/var/lib/cni/networks/cbr0"),
    )
    told = leftovers(found)
    assert [each.command for each in told] == [
        f"mv {FLANNEL.path} {FLANNEL.path}.disabled",
        "ip link del cni0",
        "ip link del flannel.1",
        "ip route del 10.244.3.0/24 via 192.0.2.13 dev eth0",
        'iptables -t nat -D POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG; '
        "iptables -t nat -F FLANNEL-POSTRTG; iptables -t nat -X FLANNEL-POSTRTG",
        'iptables -t filter -D FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD; '
        "iptables -t filter -F FLANNEL-FWD; iptables -t filter -X FLANNEL-FWD",
        'ip6tables-legacy -t nat -D POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG; '
        "ip6tables-legacy -t nat -F FLANNEL-POSTRTG; ip6tables-legacy -t nat -X FLANNEL-POSTRTG",
        "nft delete table ip flannel-ipv4",
        "rm -r /run/flannel",
        "rm -r /var/lib/cni/networks/cbr0",
    ]
    assert told[1].what == "cni0, the bridge of pods with 10.244.1.1/24, and 2 pods plugged in: empty the node first"


@pytest.mark.parametrize(
    ("chain", "ours"),
    [*[(each, True) for each in CHAINS], (Chain("ip", "nat", "POSTROUTING"), False), (Chain("ip", "x", "y"), False)],
)
def test_flannels_chains_are_known(chain, ours):
    assert is_flannels(chain) is ours


def test_the_order_names_the_clusters_own_daemon_sets_and_files(seen):
    sets = (DaemonSet("kube-system", "kube-flannel-ds-amd64"), DaemonSet("kube-system", "kube-flannel-ds-arm64"))
    todo = steps(seen(cluster=replace(KUBE, daemon_sets=sets)))
    commands = [command for each in todo for command in each.commands]
    assert (
        sum(command.startswith("kubectl -n kube-system patch daemonset kube-flannel-ds-") for command in commands) == 2
    )
    assert commands[-2:] == [f"kubectl -n kube-system delete daemonset {each.name}" for each in sets]
    assert f"on NODE: mv {FLANNEL.path} {FLANNEL.path}.disabled" in commands
    usual = [command for each in steps(seen()) for command in each.commands]
    assert "kubectl -n kube-flannel delete daemonset kube-flannel-ds" in usual


def test_a_node_is_emptied_before_its_configuration_is_set_aside_and_filled_after_it(seen):
    commands = [command for each in steps(seen()) for command in each.commands]
    order = ["kubectl drain", "kubectl label", "kubectl taint node NODE headcni.io/moving=true", "on NODE: mv"]
    order += ["on NODE: ip link del cni0", "kubectl taint node NODE headcni.io/moving-", "kubectl uncordon"]
    places = [next(number for number, each in enumerate(commands) if each.startswith(start)) for start in order]
    assert places == sorted(places)


def test_k3s_has_no_daemon_set_but_a_setting(seen):
    todo = steps(seen(replace(HERE, net_conf_from=K3S_NET_CONF)))
    assert any("flannel-backend: none" in each.what for each in todo)
    assert not [command for each in todo for command in each.commands if "daemonset " in command]
