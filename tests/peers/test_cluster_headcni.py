"""HeadCNI as it is deployed: our image, our chart, real kubelets and runtimes, tailscaleds that nobody joined.

One cluster, from its installation to the end: every test leaves HeadCNI installed and its pods running, the last ones
take it away. What a refused key does is tried in a cluster of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
from clusters import made

from fixtures.cluster import Cluster, Node, NodeState, workload
from fixtures.cluster.released import BINARIES, CONFLIST, NAMESPACE, NEXT, TAG, Pinging, Release, deployment
from fixtures.mesh.capture import Capture

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]

WEB = "10.96.7.7"
CLIENTS = ("client1", "client2")
PODS = "10.244.0.0/16"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with made(tmp_path_factory.mktemp("cluster")) as up:
        yield up


@pytest.fixture(scope="module")
def release(cluster: Cluster) -> Release:
    made = Release(cluster)
    made.prepare((TAG, NEXT))
    return made


@pytest.fixture(scope="module")
def before(release: Release) -> dict[str, NodeState]:
    """Each tailscaled was a member once, and logged out: it leaves some rules and a sysctl, and that is not ours."""
    headscale = release.cluster.headscale
    for node in release.cluster.nodes:
        node.tailscaled.up(headscale.url, headscale.new_auth_key(), "--hostname", node.name)
    _log_out(release.cluster)
    return {node.name: node.snapshot() for node in release.cluster.nodes}


def _log_out(cluster: Cluster) -> None:
    for node in cluster.nodes:
        node.run("tailscale", "logout")
        cluster.headscale.delete(node.name)


@pytest.fixture(scope="module")
def installed(release: Release, before: dict[str, NodeState]) -> Release:
    release.cluster.headscale.auto_approve(PODS)
    release.install(release.cluster.headscale.new_auth_key())
    release.wait_up()
    return release


@pytest.fixture(scope="module")
def web(cluster: Cluster, installed: Release) -> dict[str, str]:
    """Name and address of each of a Deployment's pods; a Service is before them, and a client is on each node."""
    _, service = workload.web("web", WEB)
    cluster.create(deployment("web", 4), service)
    cluster.create(*(workload.pod(name, node.name) for name, node in zip(CLIENTS, cluster.nodes, strict=True)))
    for client in CLIENTS:
        cluster.wait_running(client)
    pods = cluster.wait_running("web", 4)
    for client in CLIENTS:
        cluster.wait(lambda c=client: cluster.exec(c, *workload.ask(WEB)).split(), 30, "kube-proxy to know the Service")
    return pods


def test_from_nothing_to_nodes_that_are_ready_and_joined(cluster: Cluster, installed: Release) -> None:
    members = {each.name: each for each in cluster.headscale.nodes()}
    assert set(members) == {"n1", "n2"}
    for node in cluster.nodes:
        assert members[node.name].serving == {cluster.pod_cidr(node)}
        assert "in force" in installed.run(node, "mesh", "status")
        assert "nothing is wrong" in installed.run(node, "doctor")
    events = cluster.api.call("GET", "/api/v1/namespaces/default/events")["items"]
    said = [each["message"] for each in events if each["source"].get("component") == "headcni"]
    assert said.count("HeadCNI serves pods on this node") == 2


def test_the_conflist_is_the_last_that_the_host_gets(cluster: Cluster, installed: Release) -> None:
    for node in cluster.nodes:
        written = (node.root / CONFLIST).stat().st_mtime
        assert all((node.root / "opt/cni/bin" / each).stat().st_mtime < written for each in BINARIES)
        became = installed.log(node).split("conflist: wrote")
        assert len(became) == 2
        assert "started" in became[0]


def test_no_pod_could_get_an_address_before_the_node_s_pod_cidr_was_known(cluster: Cluster, installed: Release) -> None:
    for node in cluster.nodes:
        log = installed.log(node)
        assert 0 < log.index(f"Found Pod CIDR in PodCIDRs: {cluster.pod_cidr(node)}") < log.index("conflist: wrote")
        rules = node.run("ip", "rule").splitlines()
        assert [each for each in rules if "10.244." in each and cluster.pod_cidr(node) not in each] == []


def test_pods_of_a_deployment_reach_each_other(cluster: Cluster, web: dict[str, str]) -> None:
    with Capture(cluster, [PODS]) as seen:
        _reach_each_other(cluster, web)
    assert [str(each) for each in seen.packets] == []


def test_pods_reach_each_other_by_the_relay_alone(cluster: Cluster, web: dict[str, str]) -> None:
    one, two = cluster.nodes
    with cluster.block_direct():
        cluster.wait(lambda: _is_relayed(one, two), 60, "the relay")
        with Capture(cluster, [PODS]) as seen:
            _reach_each_other(cluster, web)
    assert [str(each) for each in seen.packets] == []


def _reach_each_other(cluster: Cluster, web: dict[str, str]) -> None:
    """With their own addresses, and by the Service through both kube-proxies."""
    for client in CLIENTS:
        (own,) = cluster.wait_running(client).values()
        for name, address in web.items():
            assert cluster.exec(client, *workload.ask(address, 8080)).split() == [name, own]
        answers = [cluster.exec(client, *workload.ask(WEB)).split() for _ in range(16)]
        assert {source for _, source in answers} == {own}
        assert len({name for name, _ in answers}) >= 2


def _is_relayed(one: Node, two: Node) -> bool:
    one.ping(two.tailscaled.address, timeout=1)
    (peer,) = [each for each in one.tailscaled.status()["Peer"].values() if each["HostName"] == two.name]
    return not peer["CurAddr"] and bool(peer["Relay"])


def test_the_chart_s_own_test_passes(cluster: Cluster, installed: Release) -> None:
    cluster.helm("-n", NAMESPACE, "test", "headcni")


def test_upgraded_while_pods_ping_each_other(cluster: Cluster, installed: Release, web: dict[str, str]) -> None:
    first, second = ((client, *cluster.wait_running(client).values()) for client in CLIENTS)
    daemons = {pod["metadata"]["uid"] for pod in installed.daemons().values()}
    with Pinging(cluster, first[0], second[1]) as there, Pinging(cluster, second[0], first[1]) as back:
        installed.upgrade("--set", f"image.tag={NEXT}")
    running = installed.daemons().values()
    assert not daemons & {pod["metadata"]["uid"] for pod in running}
    assert {pod["spec"]["containers"][0]["image"].rpartition(":")[2] for pod in running} == {NEXT}
    assert there.sent > 10
    assert back.sent > 10
    assert (there.lost, back.lost) == ([], [])


def test_upgraded_while_pods_start_and_end(cluster: Cluster, installed: Release, web: dict[str, str]) -> None:
    """From before the first daemon ends until after the last one is ready: twenty at least."""
    names = (f"short{number}" for number in count())
    begun: list[str] = []
    with ThreadPoolExecutor() as beside:
        upgrading = beside.submit(installed.upgrade, "--set", f"image.tag={TAG}")
        while not upgrading.done() or len(begun) < 20:
            name, node = next(names), cluster.nodes[len(begun) % 2]
            script = f"ping -c 3 -W 5 {next(iter(web.values()))}"
            cluster.create(workload.pod(name, node.name, script, restartPolicy="Never"))
            begun.append(name)
            cluster.wait(lambda: _unfinished(cluster) < 6, 60, "room for another pod")
        upgrading.result()
    cluster.wait(lambda: _unfinished(cluster) == 0, 60, "all short pods to end")
    phases = {pod["metadata"]["name"]: pod["status"]["phase"] for pod in _short(cluster)}
    assert phases == dict.fromkeys(begun, "Succeeded")
    events = cluster.api.call("GET", "/api/v1/namespaces/default/events")["items"]
    assert [each["message"] for each in events if each["reason"] == "FailedCreatePodSandBox"] == []
    cluster.delete(*(workload.pod(name) for name in begun))


def _short(cluster: Cluster) -> list[dict]:
    return [pod for pod in cluster.pods() if pod["metadata"]["name"].startswith("short")]


def _unfinished(cluster: Cluster) -> int:
    return sum(pod["status"]["phase"] not in ("Succeeded", "Failed") for pod in _short(cluster))


def test_uninstalled_it_leaves_nothing(cluster: Cluster, installed: Release, before: dict[str, NodeState]) -> None:
    """The nodes stay members of the tailnet, for the operator may be connected through it; logging out is his."""
    _delete_all(cluster)
    installed.uninstall()
    _log_out(cluster)
    for node in cluster.nodes:
        assert before[node.name].difference(node.snapshot()) == ()
        told = installed.node_object(node)
        assert [each for each in told["metadata"].get("annotations", {}) if "headcni" in each] == []
        assert installed.condition(node, "NetworkUnavailable") == {}


def _delete_all(cluster: Cluster) -> None:
    _, service = workload.web("web", WEB)
    cluster.delete(deployment("web", 4), service, *map(workload.pod, CLIENTS))
