"""Wiring in the kernel itself: pods that really reach each other, and every half-done state made whole."""

from __future__ import annotations

import errno
import os
import select
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import ip_address, ip_network

import orjson
import pytest

from cni.spec import Code, Refusal
from fixtures.lab import Lab
from reconciler.ports import Wired
from reconciler.wiring import codec, kernel, namespace, netlink, requests
from reconciler.wiring.inspect import find_link
from reconciler.wiring.kernel import KernelWiring
from reconciler.wiring.netlink import Netlink
from reconciler.wiring.plan import LinkPlan, PodAddress, Route, host_name, instance_group, macs
from statemachine.attachment import Namespace

pytestmark = pytest.mark.kernel

GROUP = instance_group("test")
GW4, GW6 = ip_address("10.244.1.1"), ip_address("fd00:244:1::1")
SYSCTLS = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.conf.all.rp_filter=1")


@pytest.fixture(scope="module")
def lab():
    with Lab(1) as running:
        running.nodes[0].run("sysctl", "-q", "-w", *SYSCTLS, "net.ipv4.conf.default.rp_filter=1")
        yield running


@pytest.fixture
def node(lab):
    """The test itself is inside the node, which it must leave as it found it."""
    node = lab.nodes[0]
    before = node.snapshot()
    with node.entered():
        yield node
        for pod in node.pods.copy():
            node.delete_netns(pod)
        wiring = KernelWiring(GROUP)
        wiring.unwire(sorted(wiring.links()))
    assert before.difference(node.snapshot()) == ()


@pytest.fixture
def wiring(node):
    return KernelWiring(GROUP)


@pytest.fixture
def pod(node):
    return node.new_pod_netns()


def plan(number: int = 2, name: str = "eth0", **changes) -> LinkPlan:
    key = f"pod-{number}@{name}"
    dual = LinkPlan(
        host_name(key),
        name,
        *macs(key),
        mtu=1280,
        group=GROUP,
        addresses=(PodAddress(GW4 + number, GW4), PodAddress(GW6 + number, GW6)),
        routes=(Route(ip_network("0.0.0.0/0"), GW4), Route(ip_network("::/0"), GW6, priority=1024)),
    )
    return replace(dual, **changes)


def wired(wiring, wanted, pod) -> Wired:
    """Wired, and the kernel says so."""
    netns = wiring.identity(pod.path)
    done = wiring.wire(wanted, netns)
    assert isinstance(done, Wired), done
    assert wiring.inspect(wanted, netns) == ()
    return done


def refused(wiring, wanted, pod) -> Refusal:
    refusal = wiring.wire(wanted, wiring.identity(pod.path))
    assert isinstance(refusal, Refusal), refusal
    return refusal


def link(netns, name):
    return orjson.loads(netns.run("ip", "-d", "-j", "link", "show", name))[0]


# --- pods that reach each other


def test_two_pods_and_their_node_reach_each_other_under_strict_rp_filter(node, wiring):
    pods = [node.new_pod_netns(), node.new_pod_netns()]
    for number, each in enumerate(pods, 2):
        wired(wiring, plan(number), each)
    for gateway in (GW4, GW6):
        assert pods[0].ping(str(gateway + 3))
        assert pods[1].ping(str(gateway + 2))
        assert pods[0].ping(str(gateway))
        assert node.ping(str(gateway + 2))


def test_the_node_speaks_to_its_pods_from_the_gateway_s_address(node, wiring, pod):
    wired(wiring, plan(), pod)
    assert "src 10.244.1.1" in node.run("ip", "route", "get", "10.244.1.3")
    assert "src fd00:244:1::1" in node.run("ip", "route", "get", "fd00:244:1::3")


def test_the_first_packet_of_a_pod_is_not_lost(node, wiring):
    """The pod answers one request that is sent in the very instant in which the wiring is done."""
    plans = [plan(number) for number in range(2, 82)]
    ready = [(each, wiring.identity(node.new_pod_netns().path)) for each in plans]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)
        for each, netns in ready:
            wiring.wire(each, netns)
            asking.connect((str(each.addresses[0].address), 9))
            asking.send(b"")  # to a port that nobody listens at: the pod says so
            with select.epoll() as waiting:
                waiting.register(asking, select.EPOLLERR)
                assert waiting.poll(1), f"no answer from {each.host_name}"
            assert asking.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


@pytest.mark.parametrize("downs", [0, 2, 1000])
def test_an_end_that_cannot_send_yet_is_waited_for_but_not_for_ever(monkeypatch, downs):
    pauses = []
    monkeypatch.setattr(kernel.time, "sleep", pauses.append)
    states = iter([codec.IFF_UP] * downs + [codec.IFF_UP | codec.IFF_RUNNING])

    class Pod:
        def ask(self, wanted):
            assert [each.kind for each in wanted] == [codec.GETLINK]
            return netlink.Answer((), {0: codec.LINK.pack(0, 0, 7, next(states), 0)})

    kernel._await_running(Pod(), 7)
    assert len(pauses) == min(downs, len(kernel._PAUSES))
    assert sum(pauses) < 0.1


def test_ipv4_alone(node, wiring, pod):
    wanted = plan(addresses=(PodAddress(GW4 + 2, GW4),), routes=(Route(ip_network("0.0.0.0/0"), GW4),))
    wired(wiring, wanted, pod)
    assert node.ping("10.244.1.3")


def test_ipv6_alone_is_usable_at_once(node, wiring, pod):
    wanted = plan(addresses=(PodAddress(GW6 + 2, GW6),), routes=(Route(ip_network("::/0"), GW6, priority=1024),))
    wired(wiring, wanted, pod)
    assert "tentative" not in pod.run("ip", "-6", "addr", "show", "to", str(GW6 + 2))
    assert pod.ping(str(GW6))


def test_two_interfaces_of_one_pod(node, wiring, pod):
    second = plan(9, "net1", routes=(Route(ip_network("10.99.0.0/16"), GW4),), addresses=(PodAddress(GW4 + 9, GW4),))
    wired(wiring, plan(2, routes=()), pod)
    refusal = refused(wiring, second, pod)  # both would reach the one gateway through an interface of their own
    assert refusal.msg == "net1 cannot have the route 10.244.1.1/32: eth0 has it"
    other = ip_address("10.245.1.1")
    wired(wiring, replace(second, addresses=(PodAddress(other + 1, other),), routes=()), pod)
    assert pod.ping("10.245.1.1")
    assert pod.ping("10.244.1.1")


def test_routes_carry_what_was_asked_of_them(wiring, pod):
    route = Route(ip_network("10.96.0.0/12"), GW4, mtu=1200, advmss=1100, priority=7)
    wired(wiring, plan(routes=(route,)), pod)
    shown = pod.run("ip", "route", "show", "10.96.0.0/12")
    assert all(word in shown for word in ("via 10.244.1.1", "mtu 1200", "advmss 1100", "metric 7", "proto 72"))


def test_the_answer_names_both_interfaces(node, wiring, pod):
    done = wired(wiring, plan(), pod)
    assert link(node, plan().host_name)["ifindex"] == done.host_index
    assert link(pod, "eth0")["ifindex"] == done.pod_index


# --- from every partial state


def steps(wanted, pair):
    """Every request of a wiring behind the first, in order, with the side it belongs to."""
    for side, end, index in (("pod", wanted.pod_end, pair[1]), ("host", wanted.host_end, pair[0])):
        yield side, requests.bring_up(end, index, restore=False)
        for request in requests.configure(end, index):
            yield side, request


def half_wire(wanted, pod, count):
    """As if killed after `count` requests."""
    descriptor = namespace.open_namespace(namespace.identify(pod.path))
    try:
        with Netlink() as host, namespace.inside(descriptor, Netlink) as inner:
            assert not host.ask([requests.make_pair(wanted.host_end, wanted.pod_end, descriptor)]).failures
            here = find_link(host, wanted.host_name)
            for side, request in list(steps(wanted, (here.index, here.peer)))[:count]:
                assert not (inner if side == "pod" else host).ask([request]).failures
    finally:
        os.close(descriptor)
    return here.index


STEPS = len(list(steps(plan(), (1, 1))))


@pytest.mark.parametrize("count", range(STEPS + 1))
def test_what_a_kill_left_half_done_is_completed(node, wiring, pod, count):
    index = half_wire(plan(), pod, count)
    assert wired(wiring, plan(), pod).host_index == index
    assert pod.ping(str(GW4))
    assert pod.ping(str(GW6))


def test_wiring_again_changes_nothing(node, wiring, pod):
    first = wired(wiring, plan(), pod)
    before = node.snapshot(), pod.snapshot()
    assert wired(wiring, plan(), pod) == first
    assert before[0].difference(node.snapshot()) == ()
    assert before[1].difference(pod.snapshot()) == ()


@pytest.mark.parametrize(
    "damage",
    [
        ("pod", "ip link set eth0 down", "ip link set eth0 name was0"),
        ("host", "ip link set {host} group {doomed}"),
        ("host", "ip link del {host}", "ip link add {host} group {group} type veth peer name other"),
    ],
    ids=["the pod's end renamed", "on its way out", "another pair of that name"],
)
def test_a_stale_link_of_our_name_is_made_anew(node, wiring, pod, damage):
    wired(wiring, plan(), pod)
    side, *commands = damage
    for command in commands:
        words = command.format(host=plan().host_name, group=GROUP, doomed=GROUP | 1).split()
        (pod if side == "pod" else node).run(*words)
    wired(wiring, plan(), pod)
    assert node.ping("10.244.1.3")


def test_a_link_of_our_name_into_another_namespace_is_made_anew(node, wiring, pod):
    wired(wiring, plan(), node.new_pod_netns())
    wired(wiring, plan(), pod)
    assert wiring.links() == {plan().host_name}


# --- what is not ours


def test_an_interface_of_that_name_in_the_pod_is_refused_and_left_alone(node, wiring, pod):
    pod.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "foreign")
    before = pod.snapshot()
    refusal = refused(wiring, plan(), pod)
    assert refusal.code == Code.INTERFACE_TAKEN
    assert "eth0 exists already in the pod" in refusal.msg
    assert before.difference(pod.snapshot()) == ()
    assert not wiring.links()


def test_a_link_of_our_name_that_is_not_ours_is_refused_and_left_alone(node, wiring, pod):
    node.run("ip", "link", "add", plan().host_name, "type", "veth", "peer", "name", "foreign")
    refusal = refused(wiring, plan(), pod)
    wiring.unwire([plan().host_name])
    assert refusal.code == Code.INTERFACE_TAKEN
    assert f"{plan().host_name} exists already in the node" in refusal.msg
    node.run("ip", "link", "del", plan().host_name)  # it is still there


def test_a_route_of_the_node_to_the_pod_s_address_is_refused_and_left_alone(node, wiring, pod):
    node.run("ip", "route", "add", "10.244.1.3/32", "dev", "eth0")
    refusal = refused(wiring, plan(), pod)
    assert refusal.code == Code.KERNEL_REFUSED
    assert refusal.msg == f"{plan().host_name} cannot have the route 10.244.1.3/32: eth0 has it"
    assert not wiring.links()
    assert "eth0" not in pod.run("ip", "link")
    node.run("ip", "route", "del", "10.244.1.3/32", "dev", "eth0")  # it is still there


@pytest.mark.parametrize("dst", ["0.0.0.0/0", "::/0"])
def test_a_default_route_of_another_interface_of_the_pod_is_refused_and_left_alone(node, wiring, pod, dst):
    pod.run("ip", "link", "add", "net0", "type", "veth", "peer", "name", "foreign")
    pod.run("ip", "link", "set", "net0", "up")
    pod.run("ip", "route", "add", dst, "dev", "net0")
    refusal = refused(wiring, plan(), pod)
    assert refusal.msg.startswith(f"eth0 cannot have the route {dst}")
    assert refusal.msg.endswith("net0 has it")
    assert "dev net0" in pod.run("ip", "-6" if ":" in dst else "-4", "route", "show", "default")
    assert not wiring.links()


def test_what_the_kernel_refuses_is_named_and_nothing_is_left(node, wiring, pod):
    wrong = Route(ip_network("10.96.0.0/12"), ip_address("10.9.9.9"))
    refusal = refused(wiring, plan(routes=(wrong,)), pod)
    assert refusal.code == Code.KERNEL_REFUSED
    assert "add the route 10.96.0.0/12 via 10.9.9.9 to eth0" in refusal.msg
    assert "invalid gateway" in refusal.details
    assert not wiring.links()


def test_a_refusal_leaves_a_link_that_was_there_before(node, wiring, pod):
    done = wired(wiring, plan(), pod)
    wrong = Route(ip_network("10.96.0.0/12"), ip_address("10.9.9.9"))
    refused(wiring, plan(routes=(*plan().routes, wrong)), pod)
    assert link(pod, "eth0")["ifindex"] == done.pod_index


def test_links_of_another_daemon_are_neither_listed_nor_deleted(node, wiring, pod):
    wired(wiring, plan(), pod)
    other = KernelWiring(instance_group("another state directory"))
    assert not other.links()
    other.unwire([plan().host_name])
    assert wiring.links() == {plan().host_name}


# --- namespaces


@pytest.mark.parametrize(
    ("path", "code", "says"),
    [
        ("/run/netns/never-was", Code.UNKNOWN_CONTAINER, "does not exist"),
        ("/etc/passwd/x", Code.UNKNOWN_CONTAINER, "does not exist"),
        ("/etc/passwd", Code.INVALID_ENVIRONMENT, "is not a pod's network namespace"),
        ("/proc", Code.INVALID_ENVIRONMENT, "is not a pod's network namespace"),
        ("/proc/self/ns/uts", Code.INVALID_ENVIRONMENT, "is not a pod's network namespace"),
        ("/proc/self/task/{thread}/ns/net", Code.INVALID_ENVIRONMENT, "is not a pod's network namespace"),
    ],
)
def test_a_path_that_is_no_pod_s_namespace_is_refused_by_name(wiring, path, code, says):
    path = path.format(thread=os.readlink("/proc/thread-self").rpartition("/")[2])
    refusal = wiring.identity(path)
    assert isinstance(refusal, Refusal)
    assert refusal.code == code
    assert refusal.msg == f"CNI_NETNS: {path} {says}"
    assert wiring.wire(plan(), Namespace(path, 0, 0)) == refusal
    assert str(refusal) in wiring.inspect(plan(), Namespace(path, 0, 0))


def test_another_namespace_behind_the_recorded_path_is_refused(wiring, pod):
    recorded = replace(wiring.identity(pod.path), ino=1)
    refusal = wiring.wire(plan(), recorded)
    assert isinstance(refusal, Refusal)
    assert refusal.code == Code.UNKNOWN_CONTAINER
    assert "is another one now" in refusal.msg
    assert not wiring.links()


def test_a_thread_comes_home_from_a_namespace_whatever_happened_there(node, pod):
    descriptor = os.open(pod.path, os.O_RDONLY)
    home = os.readlink("/proc/thread-self/ns/net")
    with pytest.raises(ZeroDivisionError):
        namespace.inside(descriptor, lambda: 1 // 0)
    os.close(descriptor)
    assert os.readlink("/proc/thread-self/ns/net") == home


def test_a_process_that_cannot_come_home_ends_at_once():
    code = "from reconciler.wiring.namespace import _return; _return(999)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -6
    assert "cannot leave a pod's network namespace" in done.stderr


# --- inspect and repair


@pytest.mark.parametrize(
    ("side", "command", "sentence"),
    [
        ("pod", "ip link set eth0 mtu 1400", "eth0: MTU is 1400, expected 1280"),
        (
            "pod",
            "ip link set eth0 address 02:00:00:00:00:99",
            "eth0: hardware address is 02:00:00:00:00:99, expected",
        ),
        ("pod", "ip link set eth0 down", "eth0: is down, expected up"),
        ("pod", "ip link set eth0 name was0", "eth0: the interface is missing"),
        ("pod", "ip address del 10.244.1.3/32 dev eth0", "eth0: address 10.244.1.3/32 is missing, found none"),
        ("pod", "ip address del fd00:244:1::3/128 dev eth0", "eth0: address fd00:244:1::3/128 is missing"),
        ("pod", "ip route del default", "eth0: route 0.0.0.0/0 via 10.244.1.1 is missing, found none"),
        ("pod", "ip -6 route del default", "eth0: route ::/0 via fd00:244:1::1 metric 1024 is missing"),
        (
            "pod",
            "ip route change default dev eth0",
            "eth0: route 0.0.0.0/0 via 10.244.1.1 is missing, found 0.0.0.0/0",
        ),
        ("pod", "ip route change default via 10.244.1.1 mtu 1000", "found 0.0.0.0/0 via 10.244.1.1 mtu 1000"),
        ("pod", "ip neigh del 10.244.1.1 dev eth0", "eth0: neighbour 10.244.1.1 at"),
        ("pod", "ip neigh change 10.244.1.1 dev eth0 nud stale", "(permanent) is missing, found 10.244.1.1 at"),
        ("pod", "ip neigh del fd00:244:1::1 dev eth0", "eth0: neighbour fd00:244:1::1 at"),
        ("host", "ip link set {host} mtu 1400", "{host}: MTU is 1400, expected 1280"),
        ("host", "ip link set {host} address 02:00:00:00:00:99", "{host}: hardware address is 02:00:00:00:00:99"),
        ("host", "ip link set {host} down", "{host}: is down, expected up"),
        ("host", "ip link del {host}", "{host}: the interface is missing"),
        ("host", "ip address del 10.244.1.1/32 dev {host}", "{host}: address 10.244.1.1/32 is missing"),
        ("host", "ip route del 10.244.1.3/32", "{host}: route 10.244.1.3/32 is missing, found none"),
        ("host", "ip -6 route del fd00:244:1::3/128", "{host}: route fd00:244:1::3/128 metric 1024 is missing"),
        ("host", "ip neigh del 10.244.1.3 dev {host}", "{host}: neighbour 10.244.1.3 at"),
    ],
)
def test_each_single_difference_is_named_and_repaired(node, wiring, pod, side, command, sentence):
    wired(wiring, plan(), pod)
    (pod if side == "pod" else node).run(*command.format(host=plan().host_name).split())
    found = wiring.inspect(plan(), wiring.identity(pod.path))
    assert sentence.format(host=plan().host_name) in "; ".join(found)
    wired(wiring, plan(), pod)
    assert pod.ping(str(GW4))
    assert pod.ping(str(GW6))


def test_the_link_group_is_inspected(node, wiring, pod):
    wired(wiring, plan(), pod)
    node.run("ip", "link", "set", plan().host_name, "group", "7")
    found = wiring.inspect(plan(), wiring.identity(pod.path))
    node.run("ip", "link", "set", plan().host_name, "group", str(GROUP))
    assert found == (f"{plan().host_name}: link group is 7, expected {GROUP}",)


def test_a_kernel_that_does_not_filter_lists_is_understood_too(node, wiring, pod, monkeypatch):
    """Linux 4.19."""
    monkeypatch.setattr(netlink, "_STRICT", 9999)
    other = node.new_pod_netns()
    wired(wiring, plan(2), pod)
    wired(wiring, plan(3), other)
    node.run("ip", "neigh", "del", "10.244.1.3", "dev", plan(2).host_name)
    assert len(wiring.inspect(plan(2), wiring.identity(pod.path))) == 1
    assert wiring.inspect(plan(3), wiring.identity(other.path)) == ()


# --- unwiring, many, at once, without leaks


def test_two_hundred_links_are_unwired_in_one_call(node, wiring, pod):
    plans = [plan(number, f"eth{number}", addresses=(), routes=()) for number in range(200)]
    for each in plans:
        wired(wiring, each, pod)
    assert len(wiring.links()) == 200
    wiring.unwire([each.host_name for each in plans])
    assert not wiring.links()
    assert "eth1" not in pod.run("ip", "link")


def test_unwiring_what_is_gone_or_never_was_is_fine(node, wiring, pod):
    wired(wiring, plan(), pod)
    wiring.unwire([plan().host_name, "hcneverexisted0"])
    wiring.unwire([plan().host_name])
    wiring.unwire([])
    assert not wiring.links()


def test_unwiring_when_the_namespace_is_gone(node, wiring, pod):
    wired(wiring, plan(), pod)
    node.delete_netns(pod)
    wiring.unwire([plan().host_name])
    assert not wiring.links()


def test_links_that_a_kill_left_among_the_doomed_are_listed_and_deleted(node, wiring, pod):
    wired(wiring, plan(), pod)
    node.run("ip", "link", "set", plan().host_name, "group", str(GROUP | 1))
    assert wiring.links() == {plan().host_name}
    wiring.unwire([plan().host_name])
    assert not wiring.links()


def test_several_threads_wire_and_unwire_at_once(node, wiring):
    jobs = [(plan(number), node.new_pod_netns()) for number in range(2, 22)]

    def cycle(job):
        wired(wiring, *job)
        wiring.unwire([job[0].host_name])
        return wired(wiring, *job).host_index

    with ThreadPoolExecutor(8) as threads:
        indexes = list(threads.map(cycle, jobs))
    assert len(set(indexes)) == len(jobs)
    assert wiring.links() == {each.host_name for each, _ in jobs}
    assert all(node.ping(str(each.addresses[0].address)) for each, _ in jobs)


def test_no_descriptor_is_left_open(node, wiring, pod):
    def open_now():
        return len(os.listdir("/proc/self/fd"))

    before = open_now()
    wired(wiring, plan(), pod)
    wired(wiring, plan(), pod)
    wiring.links()
    refused(wiring, plan(routes=(Route(ip_network("10.96.0.0/12"), ip_address("10.9.9.9")),)), pod)
    wiring.wire(plan(), replace(wiring.identity(pod.path), ino=1))
    for path in ("/etc/passwd", "/proc/self/ns/uts", "/run/netns/never-was"):
        wiring.identity(path)
    wiring.unwire([plan().host_name])
    assert open_now() == before
