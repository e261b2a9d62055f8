"""The contract with a runtime, through real processes: results, checks, garbage, statuses."""

import json
import time

import pytest

from cni.spec import Code
from fixtures.lab import Lab
from fixtures.site import Site, wait_until
from reconciler.wiring.plan import host_name, macs

pytestmark = pytest.mark.kernel

DUAL = "10.244.1.0/24,fd00:244:1::/64"


@pytest.fixture(scope="module")
def lab():
    with Lab(2) as running:
        yield running


@pytest.fixture(scope="module")
def shared(lab, tmp_path_factory):
    with Site(lab.nodes[0], tmp_path_factory.mktemp("shared") / "state", pod_cidr=DUAL) as running:
        yield running


@pytest.fixture
def site(shared):
    yield shared
    shared.remove_all()


@pytest.fixture
def own_site(lab, tmp_path):
    with Site(lab.nodes[1], tmp_path / "state") as running:
        yield running


def dual(**more):
    ranges = [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:244:1::/64"}]]
    return {"ipam": {"type": "headcni-ipam", "ranges": ranges, **more}}


# --- results


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_a_result_has_the_shape_of_the_version(site, version):
    ipam = {"subnet": "10.244.1.0/24", "routes": [{"dst": "0.0.0.0/0", "mtu": 1200, "priority": 7}]}
    dns = {"nameservers": ["10.96.0.10"], "domain": "cluster.local", "search": ["svc"], "options": ["ndots:5"]}
    answer = site.add(conf={"cniVersion": version, "ipam": ipam, "dns": dns, "mtu": 1300})
    newest, with_family = version == "1.1.0", version < "1.0.0"
    host_mac, pod_mac = macs("box@eth0")
    route = {"dst": "0.0.0.0/0", "gw": "10.244.1.1"}
    mtu = {"mtu": 1300} if newest else {}
    assert answer.json == {
        "cniVersion": version,
        "interfaces": [
            {"name": host_name("box@eth0"), "mac": host_mac, **mtu},
            {"name": "eth0", "mac": pod_mac, "sandbox": site.pod("box").path, **mtu},
        ],
        "ips": [
            {
                **({"version": "4"} if with_family else {}),
                "address": f"{answer.address}/32",
                "gateway": "10.244.1.1",
                "interface": 1,
            }
        ],
        "routes": [{**route, "mtu": 1200, "priority": 7} if newest else route],
        "dns": dns,
    }


def test_what_the_result_says_is_in_the_pod(site):
    answer = site.add(conf={"mtu": 1400, "ipam": {"subnet": "10.244.1.0/24", "routes": [{"dst": "10.96.0.0/16"}]}})
    site.wait_quiet()
    assert site.wrongs() == []
    assert answer.json["routes"] == [{"dst": "10.96.0.0/16", "gw": "10.244.1.1"}]
    link = json.loads(site.pod("box").run("ip", "-json", "link", "show", "eth0"))[0]
    assert link["mtu"] == 1400
    assert link["address"] == answer.json["interfaces"][1]["mac"]


def test_pods_of_both_families_reach_each_other_and_the_node(site):
    one, two = site.add("one", conf=dual()), site.add("two", conf=dual())
    addresses = [ip["address"].partition("/")[0] for ip in two.json["ips"]]
    assert [":" in address for address in addresses] == [False, True]
    for address in addresses:
        assert site.pod("one").ping(address)
        assert site.node.ping(address)
    for gateway in ("10.244.1.1", "fd00:244:1::1"):
        assert site.pod("two").ping(gateway)
    assert {route["dst"] for route in one.json["routes"]} == {"0.0.0.0/0", "::/0"}
    site.wait_quiet()
    assert site.wrongs() == []


def test_a_network_without_a_subnet_takes_the_nodes_pod_cidrs(site):
    answer = site.add(conf={"ipam": None})
    assert [ip["gateway"] for ip in answer.json["ips"]] == ["10.244.1.1", "fd00:244:1::1"]


def test_pods_reach_other_nodes_and_their_pods(tmp_path):
    """What leaves the cluster has the node's address: the other node has no way back to the pod."""
    with Lab(2) as other:
        here, there = other.nodes
        stranger = there.address
        with Site(here, tmp_path / "one", "--static-route", f"10.244.2.0/24={there.address}") as one:
            one.add()
            assert one.pod("box").ping(stranger)
            way_back = ("--static-route", f"10.244.1.0/24={here.address}")
            with Site(there, tmp_path / "two", *way_back, pod_cidr="10.244.2.0/24") as two:
                assert one.pod("box").ping(two.add().address)
                assert two.pod("box").ping("10.244.1.2")


@pytest.mark.parametrize("verb", ["ADD", "CHECK"])
def test_a_repeated_call_answers_the_same(site, verb):
    first = site.add()
    again = site.call(verb)
    assert again.code == 0
    assert again.raw == (first.raw if verb == "ADD" else b"")


# --- an address asked for


def test_runtime_config_ips(site):
    answer = site.add(conf={"runtimeConfig": {"ips": ["10.244.1.77/24"]}})
    assert answer.address == "10.244.1.77"


def test_cni_args_ip(site):
    assert site.add(args="IgnoreUnknown=1;IP=10.244.1.78").address == "10.244.1.78"


def test_both_families_may_be_asked_for(site):
    asked = {"runtimeConfig": {"ips": ["fd00:244:1::99", "10.244.1.99"]}}
    answer = site.add(conf={**dual(), **asked})
    assert [ip["address"] for ip in answer.json["ips"]] == ["10.244.1.99/32", "fd00:244:1::99/128"]


def test_an_address_that_is_held_is_refused_with_its_holder(site):
    site.add("first", conf={"runtimeConfig": {"ips": ["10.244.1.80"]}})
    answer = site.call("ADD", "second", conf={"runtimeConfig": {"ips": ["10.244.1.80"]}})
    assert answer.json["code"] == Code.ADDRESS_REFUSED
    assert "10.244.1.80" in answer.json["msg"]
    assert "first@eth0" in answer.json["details"]
    wait_until(lambda: list(site.records()) == ["first@eth0"])
    assert site.wrongs() == []


def test_an_address_somebody_else_has_on_this_node_is_never_given(site):
    site.node.run("ip", "address", "add", "10.244.1.81/32", "dev", "lo")
    time.sleep(1.1)  # how long the daemon trusts its last look
    try:
        answer = site.call("ADD", conf={"runtimeConfig": {"ips": ["10.244.1.81"]}})
    finally:
        site.node.run("ip", "address", "del", "10.244.1.81/32", "dev", "lo")
    assert answer.json["code"] == Code.ADDRESS_REFUSED
    assert "lo" in answer.json["details"]


# --- CHECK


DAMAGES = {
    "the link is gone": ("node", "ip link del {host}", "missing"),
    "the pod's link is down": ("pod", "ip link set eth0 down", "is down"),
    "another MTU": ("pod", "ip link set eth0 mtu 1000", "MTU is 1000, expected 1280"),
    "another MAC": ("pod", "ip link set eth0 address 02:00:00:00:00:99", "02:00:00:00:00:99"),
    "the address is gone": ("pod", "ip address del {address}/32 dev eth0", "address {address}/32 is missing"),
    "the default route is gone": ("pod", "ip route del default", "0.0.0.0/0"),
    "the pod's neighbour is gone": ("pod", "ip neigh del 10.244.1.1 dev eth0", "neighbour 10.244.1.1"),
    "the host's link is down": ("node", "ip link set {host} down", "is down"),
    "the host route is gone": ("node", "ip route del {address}", "route {address}"),
    "the host's neighbour is gone": ("node", "ip neigh del {address} dev {host}", "neighbour {address}"),
    "the gateway's address is gone": ("node", "ip address del 10.244.1.1/32 dev {host}", "10.244.1.1"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_check_names_the_difference_and_a_repeated_add_repairs_it(site, damage):
    where, command, words = DAMAGES[damage]
    added = site.add()
    assert site.call("CHECK").code == 0
    names = {"host": host_name("box@eth0"), "address": added.address}
    place = site.node if where == "node" else site.pod("box")
    place.run(*command.format(**names).split())
    checked = site.call("CHECK")
    assert checked.json["code"] == Code.ATTACHMENT_DIFFERS
    assert words.format(**names) in checked.json["details"]
    assert site.add().raw == added.raw
    site.wait_quiet()
    assert site.call("CHECK").code == 0
    assert site.wrongs() == []


def test_check_of_what_is_not_attached(site):
    site.pod("box")
    answer = site.call("CHECK")
    assert answer.json["code"] == Code.ATTACHMENT_DIFFERS
    assert "box@eth0" in answer.json["msg"]


def test_check_tolerates_what_a_chained_plugin_added(site):
    site.add()
    site.pod("box").run("ip", "route", "add", "192.0.2.0/24", "dev", "eth0")
    site.pod("box").run("ip", "link", "add", "extra", "type", "bridge")
    assert site.call("CHECK").code == 0
    site.pod("box").run("ip", "link", "del", "extra")


# --- GC, STATUS, VERSION


def test_gc_removes_what_is_not_valid_of_its_own_network_only(site):
    for name in ("stays", "goes"):
        site.add(name)
    site.add("other", conf={"name": "other-net"})
    valid = [{"containerID": "stays", "ifname": "eth0"}]
    answer = site.call("GC", conf={"cni.dev/valid-attachments": valid})
    assert (answer.code, answer.raw) == (0, b"")
    assert set(site.records()) == {"stays@eth0", "other@eth0"}
    site.wait_quiet()
    assert site.wrongs() == []


def test_gc_without_the_list_means_an_empty_one(site):
    """libcni leaves an empty list out of the configuration."""
    site.add()
    assert site.call("GC").code == 0
    assert not site.records()


def test_status_is_50_while_the_pool_is_empty(own_site):
    site = own_site
    site.conf["ipam"]["subnet"] = "10.244.1.0/30"
    assert site.call("STATUS").code == 0
    site.add()
    refused = site.call("ADD", "second")
    assert refused.json["code"] == Code.POOL_EMPTY
    assert "10.244.1.0/30" in refused.json["msg"]
    assert "box@eth0" in refused.json["details"]
    wait_until(lambda: site.call("STATUS").code == 1, 3)
    status = site.call("STATUS").json
    assert status["code"] == Code.UNAVAILABLE
    assert "10.244.1.0/30" in status["msg"]
    assert status["details"]
    site.delete()
    wait_until(lambda: site.call("STATUS").code == 0, 3)
    site.add("second")


def test_an_empty_pool_says_what_cools_down(own_site):
    site = own_site
    site.conf["ipam"]["subnet"] = "10.244.1.0/29"
    for n in range(5):
        site.add(f"box{n}")
    site.delete("box0")
    wait_until(lambda: len(site.records()) == 4)
    site.add("again")
    refused = site.call("ADD", "late")
    assert refused.json["code"] == Code.POOL_EMPTY
    assert "5" in refused.json["details"]
    assert "cooling" in refused.json["details"]
    wait_until(lambda: len(site.records()) == 5)
    assert site.wrongs() == []


def test_version(site):
    answer = site.call("VERSION", raw=b'{"cniVersion": "1.0.0"}')
    assert answer.json["supportedVersions"] == ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]


def test_run_by_hand_it_says_what_it_is(site):
    answer = site.call("", raw=b"")
    assert answer.code == 0
    assert b"CNI protocol versions supported: 0.3.1, 0.4.0, 1.0.0, 1.1.0" in answer.errors
