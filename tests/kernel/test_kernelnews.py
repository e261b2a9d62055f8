"""What the kernel tells of, also where it tells more than there is room for."""

from __future__ import annotations

from contextlib import closing

import pytest

from fixtures.lab import Lab
from fixtures.site import wait_until
from reconciler.node.kernelnews import KernelNews

pytestmark = pytest.mark.kernel

FENCED, FENCED6 = "10.244.0.0/16", "fd00:10:244::/48"
SET_UP = (
    "link add one type veth peer name two",
    "link set two addrgenmode none",  # addresses of their own would be news, at some later time
    "link set one addrgenmode none",
    "link set two up",
    "link set one up",
    "addr add 192.0.2.1/24 dev one",
    "addr add 2001:db8::1/64 dev one nodad",
    f"route add unreachable {FENCED} metric 1000",
    f"-6 route add unreachable {FENCED6} metric 1000",
    f"rule add to {FENCED} lookup main pref 100",
    f"-6 rule add to {FENCED6} lookup main pref 100",
    "route add 10.244.7.0/24 dev one table 52",
)
CHANGES = (
    f"route del unreachable {FENCED}",
    f"-6 route del unreachable {FENCED6}",
    f"rule del to {FENCED}",
    f"-6 rule del to {FENCED6}",
    "route del 10.244.7.0/24 table 52",
    "route add 10.244.8.0/24 dev one",
    "-6 route add fd00:10:244:8::/64 dev one",
    "addr del 192.0.2.1/24 dev one",
    "addr del 2001:db8::1/64 dev one",
    "link set one mtu 1280",
    "link set one name renamed",
    "link set one down",  # takes its IPv4 routes along without a word of them
    "link del one",
)


@pytest.fixture
def netns():
    with Lab(1) as lab:
        made = lab.nodes[0].new_pod_netns()
        for command in SET_UP:
            made.run("ip", *command.split())
        wait_until(lambda: made.run("ip", "link").count("state UP") == 2)  # told of later than it is done
        yield made


@pytest.fixture
def news(netns):
    with netns.entered(), closing(KernelNews()) as made:
        yield made


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_that_the_fence_or_the_mesh_depends_on_is_news(netns, news, change):
    assert not news.heard()
    netns.run("ip", *change.split())
    assert news.heard()


def test_it_is_news_once(netns, news):
    for change in CHANGES[:5]:
        netns.run("ip", *change.split())
        assert news.heard()
        assert not news.heard()


def test_more_than_the_queue_holds_is_news_and_then_over(netns, news):
    netns.run("ip", "-batch", "-", input="".join(f"route add 10.9.{n}.0/24 dev one\n" for n in range(200)))
    assert news.heard()
    assert not news.heard()
    netns.run("ip", *CHANGES[0].split())
    assert news.heard(), "a queue that ran over hears again"


def test_another_network_namespace_is_not_heard(netns, news):
    with Lab(1):
        assert not news.heard()
