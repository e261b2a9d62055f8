"""The cluster of `fixtures.cluster`: a real Kubernetes on two nodes, with a provisional CNI in place of ours.

What the tests of HeadCNI in a cluster rest on is proved here: pods, Services, exec and logs work, a node can lose its
power, mounts and capabilities are what they are elsewhere, two looks at a node can be compared. That nothing is left is
in `test_cluster_gone.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from clusters import made

from fixtures.cluster import Cluster, ClusterError, Node, provisional, workload
from fixtures.mesh.capture import Capture
from fixtures.peers import find

pytestmark = [pytest.mark.peers, pytest.mark.timeout(180)]

WEB = "10.96.7.7"
NETNS = "/var/run/netns"
NARROW = {
    "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "SYS_ADMIN"]},
    "seccompProfile": {"type": "RuntimeDefault"},
    "readOnlyRootFilesystem": True,
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with made(tmp_path_factory.mktemp("cluster"), cni="provisional") as up:
        yield up


@pytest.fixture(scope="module")
def web(cluster: Cluster) -> dict[str, str]:
    """The node and address of each of the pods of a Service, which has a client on each node."""
    cluster.create(*workload.web("web", WEB), workload.pod("client1", "n1"), workload.pod("client2", "n2"))
    for client in ("client1", "client2"):
        cluster.wait_running(client)
    return cluster.wait_running("web", 2)


def test_both_nodes_are_ready_and_differ_as_they_shall(cluster: Cluster) -> None:
    nodes = {each["metadata"]["name"]: each for each in cluster.api.call("GET", "/api/v1/nodes")["items"]}
    runtimes = {name: each["status"]["nodeInfo"]["containerRuntimeVersion"] for name, each in nodes.items()}
    assert runtimes == {"n1": "containerd://1.6.20", "n2": "containerd://2.1.4"}
    assert {each["status"]["nodeInfo"]["kubeletVersion"] for each in nodes.values()} == {"v1.34.2"}
    assert sorted(each["spec"]["podCIDR"] for each in nodes.values()) == ["10.244.0.0/24", "10.244.1.0/24"]
    modes = [node.run("nft", "list", "tables").split() for node in cluster.nodes]
    assert ["kube-proxy" in mode for mode in modes] == [True, False]


def test_pods_reach_each_other_with_their_own_addresses(cluster: Cluster, web: dict[str, str]) -> None:
    for client in ("client1", "client2"):
        (own,) = cluster.wait_running(client).values()
        for name, address in web.items():
            assert cluster.exec(client, *workload.ask(address, 8080)).split() == [name, own]


def test_a_service_is_reached_through_both_kube_proxies(cluster: Cluster, web: dict[str, str]) -> None:
    for client in ("client1", "client2"):
        (own,) = cluster.wait_running(client).values()
        _wait_for_answers(cluster, client, web)
        answers = [cluster.exec(client, *workload.ask(WEB)).split() for _ in range(12)]
        assert {name for name, _ in answers} <= set(web)
        assert {source for _, source in answers} == {own}
    for node in cluster.nodes:
        asked = workload.ask(WEB, busybox=str(find("busybox")))
        cluster.wait(lambda n=node, a=asked: n.run(*a).split(), 10, f"an answer to {node.name}")


def _wait_for_answers(cluster: Cluster, client: str, web: dict[str, str]) -> None:
    """Of each pod of the Service; a kube-proxy that does not know of them yet answers nothing."""
    answered: set[str] = set()

    def all_have() -> bool:
        answered.update(cluster.exec(client, *workload.ask(WEB)).split()[:1])
        return answered == set(web)

    cluster.wait(all_have, 30, f"{set(web)} to answer {client}")


def test_the_api_server_is_reached_by_a_pod(cluster: Cluster, web: dict[str, str]) -> None:
    for client in ("client1", "client2"):
        cluster.exec(client, "sh", "-c", "nc -w 3 10.96.0.1 443 < /dev/null")


def test_logs_and_the_account_of_a_pod(cluster: Cluster) -> None:
    script = f"echo hello; ls /var/run/secrets/kubernetes.io/serviceaccount; {workload.IDLE}"
    pod = workload.pod("talker", "n2", script, automountServiceAccountToken=True)
    cluster.create(pod)
    cluster.wait_running("talker")
    cluster.wait(lambda: "token" in cluster.kubectl("logs", "talker"), 20, "the pod to have said all")
    assert cluster.kubectl("logs", "talker").split() == ["hello", "ca.crt", "namespace", "token"]
    cluster.delete(pod)


@pytest.mark.parametrize("number", [0, 1])
def test_a_narrow_pod_enters_namespaces_of_later_pods(cluster: Cluster, number: int) -> None:
    """HostToContainer works because the node's mounts are shared; without SYS_ADMIN, nobody enters."""
    node = cluster.nodes[number]
    looker, later = f"looker{number}", f"later{number}"
    one_less = {**NARROW, "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}}
    pods = [_host_pod(looker, node, NARROW), _host_pod(f"less-{looker}", node, one_less)]
    cluster.create(*pods)
    for each in (looker, f"less-{looker}"):
        cluster.wait_running(each)
    pods.append(workload.pod(later, node.name))
    cluster.create(pods[-1])
    (address,) = cluster.wait_running(later).values()
    enter = f'for each in {NETNS}/*; do nsenter --net="$each" ip address; done 2>&1'
    assert f" {address}/" in cluster.exec(looker, "sh", "-c", enter)
    assert "not permitted" in cluster.exec(f"less-{looker}", "sh", "-c", f"{enter}; true")
    assert cluster.exec(looker, "sh", "-c", "ip link add probe type bridge; touch /x 2>&1; true").count("Read-only")
    assert "probe" in node.run("ip", "-br", "link")
    node.run("ip", "link", "del", "probe")
    cluster.delete(*pods)


def _host_pod(name: str, node: Node, security: dict[str, object]) -> dict[str, object]:
    mount = {"name": "netns", "mountPath": NETNS, "mountPropagation": "HostToContainer"}
    return workload.pod(
        name,
        node.name,
        hostNetwork=True,
        container={"securityContext": security, "volumeMounts": [mount]},
        volumes=[{"name": "netns", "hostPath": {"path": NETNS}}],
    )


def test_a_memory_limit_is_kept(cluster: Cluster) -> None:
    """In the tree that the kubelet makes for its pods, below the node's own control group."""
    limit = {"resources": {"limits": {"memory": "20Mi"}}}
    read = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2> /dev/null; "
    pod = workload.pod("limited", "n1", read + workload.IDLE, container=limit)
    cluster.create(pod)
    cluster.wait_running("limited")
    cluster.wait(lambda: cluster.kubectl("logs", "limited"), 20, "the pod to have said it")
    assert cluster.kubectl("logs", "limited").split() == [str(20 << 20)]
    cluster.delete(pod)


@pytest.mark.parametrize("number", [0, 1])
def test_two_looks_at_a_node_are_equal_after_pods_came_and_went(cluster: Cluster, web: object, number: int) -> None:
    node = cluster.nodes[number]
    before = node.snapshot()
    passing = [*workload.web("passing"), workload.pod("one", node.name)]
    cluster.create(*passing)
    cluster.wait_running("passing", 2)
    cluster.wait_running("one")
    assert any("veth" in line for line in before.difference(node.snapshot()))
    cluster.delete(*passing)
    (node.root / "var/lib/cni/networks/provisional/last_reserved_ip.0").write_text("")
    left = [line for line in before.difference(node.snapshot()) if "last_reserved_ip" not in line]
    assert left == []


CHANGES = {  # by what shows them: done, and undone
    "/etc/cni/net.d/99-new.conf": ("touch /etc/cni/net.d/99-new.conf", "rm /etc/cni/net.d/99-new.conf"),
    "/etc/hostname": ("echo more >> /etc/hostname", "echo n2 > /etc/hostname"),
    "/etc/passwd": ("cp -a /etc/passwd /run/home && rm /etc/passwd", "cp -a /run/home/passwd /etc"),
    "/opt/cni/bin/ptp": ("chmod 700 /opt/cni/bin/ptp", "chmod 755 /opt/cni/bin/ptp"),
    "/run/new": ("mkdir /run/new", "rmdir /run/new"),
    "5123": ("ip rule add pref 5123 lookup main", "ip rule del pref 5123"),
    "10.77.0.0/16": ("ip route add unreachable 10.77.0.0/16", "ip route del unreachable 10.77.0.0/16"),
    "NEW-CHAIN": ("iptables -N NEW-CHAIN", "iptables -X NEW-CHAIN"),
    "new_table": ("nft add table inet new_table", "nft delete table inet new_table"),
    "eth0/log_martians": (
        "sysctl -qw net.ipv4.conf.eth0.log_martians=1",
        "sysctl -qw net.ipv4.conf.eth0.log_martians=0",
    ),
    '"AdvertiseRoutes"': ("tailscale set --advertise-routes=10.244.9.0/24", "tailscale set --advertise-routes="),
}


def test_a_look_at_a_node_sees_what_was_changed_and_what_was_undone(cluster: Cluster) -> None:
    node = cluster.nodes[1]
    before = node.snapshot()
    for done, _ in CHANGES.values():
        node.run("sh", "-c", done)
    lines = before.difference(node.snapshot())
    assert [each for each in CHANGES if not any(each in line for line in lines)] == []
    for _, undone in CHANGES.values():
        node.run("sh", "-c", undone)
    assert before.difference(node.snapshot()) == ()


def test_a_service_that_is_killed_comes_again_and_one_that_is_stopped_does_not(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    killed = node.pids["kube-proxy"]
    node.kill("kube-proxy")
    cluster.wait(lambda: node.pids.get("kube-proxy", killed) != killed, 10, "another kube-proxy")
    node.stop("kubelet")
    assert "kubelet" not in node.pids
    node.start("kubelet")
    assert set(node.pids) == {"containerd", "kubelet", "kube-proxy", "tailscaled"}


def test_the_api_server_is_away_and_comes_again(cluster: Cluster) -> None:
    cluster.api.kill()
    with pytest.raises(OSError, match="refused"):
        cluster.api.call("GET", "/version")
    cluster.api.start()
    cluster.wait_ready()


def test_power_is_cut_and_the_pods_run_again(cluster: Cluster, web: dict[str, str]) -> None:
    node = cluster.nodes[0]
    first = node.pids["containerd"]
    cluster.cut_power(node)
    with pytest.raises(ClusterError, match="n1 does not run"):
        node.find()
    cluster.boot(node)
    provisional.connect(cluster)
    assert node.pids["containerd"] != first
    assert (node.root / "etc/cni/net.d/10-provisional.conflist").exists()
    cluster.wait(lambda: _restarts(cluster, "client1") == 1, 60, "the client to run again")
    (own,) = cluster.wait_running("client1").values()
    (there,) = cluster.wait_running("client2").values()
    assert cluster.exec("client2", "ping", "-c", "1", "-W", "5", own)
    assert cluster.exec("client1", "ping", "-c", "1", "-W", "5", there)


def _restarts(cluster: Cluster, name: str) -> int:
    (pod,) = [each for each in cluster.pods() if each["metadata"]["name"] == name]
    return sum(each["restartCount"] for each in pod["status"]["containerStatuses"])


def test_pods_reach_each_other_over_the_mesh_directly_and_by_the_relay(cluster: Cluster, web: object) -> None:
    key = cluster.headscale.new_auth_key()
    for node in cluster.nodes:
        cidr = cluster.pod_cidr(node)
        flags = ("--accept-routes", "--snat-subnet-routes=false", "--hostname", node.name)
        node.tailscaled.up(cluster.headscale.url, key, *flags)
        node.tailscaled.announce(cidr)
        cluster.headscale.approve(node.name, cidr)
    one, two = cluster.nodes
    one.tailscaled.wait_accepts(cluster.pod_cidr(two))
    two.tailscaled.wait_accepts(cluster.pod_cidr(one))
    provisional.disconnect(cluster)
    (there,) = cluster.wait_running("client2").values()
    assert "tailscale0" in one.run("ip", "route", "get", there)
    with Capture(cluster, ["10.244.0.0/16"]) as seen:
        cluster.wait(lambda: _pings(cluster, "client1", there), 20, "packets over the mesh")
        with cluster.block_direct():
            cluster.wait(lambda: _relayed(one, two), 30, "the relay")
            cluster.wait(lambda: _pings(cluster, "client1", there), 20, "packets over the relay")
    provisional.connect(cluster)
    assert [str(each) for each in seen.packets if each.source.startswith("10.244.")] == []


def _pings(cluster: Cluster, client: str, address: str) -> bool:
    return ", 0% packet loss" in cluster.exec(client, "sh", "-c", f"ping -c 1 -W 1 {address}; true")


def _relayed(one: Node, two: Node) -> bool:
    """No direct path is known any more; tailscaled looks for one when there is something to send."""
    one.ping(two.tailscaled.address, timeout=1)
    (peer,) = [each for each in one.tailscaled.status()["Peer"].values() if each["HostName"] == two.name]
    return not peer["CurAddr"]


def test_helm_speaks_to_the_cluster(cluster: Cluster) -> None:
    assert json.loads(cluster.helm("list", "--all-namespaces", "-o", "json")) == []
