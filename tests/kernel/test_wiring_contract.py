"""What the engine relies on from `Wiring`, said once and held to by the fake of the simulations and by the kernel.

What is checked here is what crash recovery stands on: repetition changes nothing, a deleted link or namespace takes
everything of the attachment with it, and a refusal leaves nothing behind.
"""

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from cni.spec import Code, Refusal
from fixtures.fakes import FakeKernel, FakeWiring, Fuse
from fixtures.lab import Lab
from reconciler.ports import Wired
from reconciler.wiring.kernel import KernelWiring
from reconciler.wiring.plan import LinkPlan, PodAddress, Route, host_name, instance_group, macs
from statemachine.attachment import Namespace

GROUP = instance_group("contract")
KEY = "c0ffee@eth0"


def plan(key=KEY, address="10.244.1.2"):
    host_mac, pod_mac = macs(key)
    gateway = ip_address("10.244.1.1")
    return LinkPlan(
        host_name=host_name(key),
        pod_name="eth0",
        host_mac=host_mac,
        pod_mac=pod_mac,
        mtu=1280,
        group=GROUP,
        addresses=(PodAddress(ip_address(address), gateway),),
        routes=(Route(ip_network("0.0.0.0/0"), gateway),),
    )


class Simulated:
    def __init__(self):
        self.kernel = FakeKernel(Fuse())
        self.wiring = FakeWiring(self.kernel)
        self.serial = 0

    def new_namespace(self):
        self.serial += 1
        path = f"/ns/{self.serial}"
        self.kernel.make_namespace(path)
        return path

    def drop_namespace(self, path):
        self.kernel.drop_namespace(path)

    def isolated(self, name):
        self.kernel.isolated.add(name)

    def take_name(self, path, name):
        self.kernel.taken.add((self.kernel.namespaces[path], name))


class Real:
    def __init__(self, node):
        self.node = node
        self.wiring = KernelWiring(GROUP)
        self.pods = {}

    def new_namespace(self):
        pod = self.node.new_pod_netns()
        self.pods[pod.path] = pod
        return pod.path

    def drop_namespace(self, path):
        self.node.delete_netns(self.pods.pop(path))

    def isolated(self, name):
        """The kernel needs no telling; what isolation is comes with policies."""

    def take_name(self, path, name):
        self.pods[path].run("ip", "link", "add", name, "type", "bridge")


@pytest.fixture(scope="module")
def lab():
    with Lab(1) as running:
        yield running


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.kernel)])
def world(request):
    if request.param == "simulated":
        yield Simulated()
        return
    node = request.getfixturevalue("lab").nodes[0]
    with node.entered():
        world = Real(node)
        yield world
        world.wiring.unwire(sorted(world.wiring.links()))
        for path in list(world.pods):
            world.drop_namespace(path)


def wired(world, key=KEY, address="10.244.1.2"):
    wanted = plan(key, address)
    world.isolated(wanted.host_name)
    netns = world.wiring.identity(world.new_namespace())
    assert isinstance(netns, Namespace)
    assert isinstance(world.wiring.wire(wanted, netns), Wired)
    return wanted, netns


def test_what_was_wired_is_as_planned(world):
    wanted, netns = wired(world)
    assert world.wiring.inspect(wanted, netns) == ()
    assert world.wiring.links() == {wanted.host_name}
    assert world.wiring.addresses_behind(wanted.host_name) == (ip_address("10.244.1.2"),)


def test_wiring_again_changes_nothing(world):
    wanted, netns = wired(world)
    assert isinstance(world.wiring.wire(wanted, netns), Wired)
    assert world.wiring.inspect(wanted, netns) == ()
    assert len(world.wiring.links()) == 1


def test_a_different_plan_is_told(world):
    wanted, netns = wired(world)
    assert world.wiring.inspect(replace(wanted, mtu=1400), netns)


def test_unwiring_takes_it_away_and_may_be_repeated(world):
    wanted, netns = wired(world)
    for _ in range(2):
        world.wiring.unwire([wanted.host_name])
        assert world.wiring.links() == frozenset()
    assert world.wiring.inspect(wanted, netns)
    assert world.wiring.addresses_behind(wanted.host_name) == ()


def test_a_link_does_not_outlive_its_namespace(world):
    wanted, netns = wired(world)
    world.drop_namespace(netns.path)
    for _ in range(200):  # the kernel takes a namespace down behind our back
        if not world.wiring.links():
            break
        time.sleep(0.01)
    assert world.wiring.links() == frozenset()
    assert world.wiring.inspect(wanted, netns)


def test_the_path_of_nothing_is_an_unknown_container(world):
    refusal = world.wiring.identity("/run/netns/never-was")
    assert isinstance(refusal, Refusal)
    assert refusal.code == Code.UNKNOWN_CONTAINER


def test_a_namespace_that_changed_under_its_path_is_refused(world):
    wanted, netns = plan(), world.wiring.identity(world.new_namespace())
    world.isolated(wanted.host_name)
    refusal = world.wiring.wire(wanted, replace(netns, ino=netns.ino + 1))
    assert isinstance(refusal, Refusal)
    assert refusal.code == Code.UNKNOWN_CONTAINER
    assert world.wiring.links() == frozenset()


def test_a_name_taken_in_the_pod_is_refused_and_leaves_nothing(world):
    wanted, path = plan(), world.new_namespace()
    world.isolated(wanted.host_name)
    world.take_name(path, "eth0")
    refusal = world.wiring.wire(wanted, world.wiring.identity(path))
    assert isinstance(refusal, Refusal)
    assert refusal.code == Code.INTERFACE_TAKEN
    assert world.wiring.links() == frozenset()
