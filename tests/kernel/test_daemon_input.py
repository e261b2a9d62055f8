"""What bad input is told: a code, the field, its value and the cure; and nothing half done remains."""

import json

import pytest

from cni.spec import Code
from fixtures.processes import PLUGIN
from fixtures.site import Site, wait_until

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def shared(node, tmp_path_factory):
    with Site(node, tmp_path_factory.mktemp("shared") / "state") as running:
        yield running


@pytest.fixture
def site(shared):
    yield shared
    shared.remove_all()


def ipam(**keys):
    return {"conf": {"ipam": {"type": "headcni-ipam", "subnet": "10.244.1.0/24", **keys}}}


WRONG = {
    "unknown command": ({"verb": "ADDD"}, Code.INVALID_ENVIRONMENT, ["CNI_COMMAND", "ADDD", "DEL"]),
    "no container id": ({"container": ""}, Code.INVALID_ENVIRONMENT, ["CNI_CONTAINERID"]),
    "no interface name": ({"ifname": ""}, Code.INVALID_ENVIRONMENT, ["CNI_IFNAME"]),
    "no namespace": ({"netns": ""}, Code.INVALID_ENVIRONMENT, ["CNI_NETNS"]),
    "a container id that climbs": ({"container": "a..b"}, Code.INVALID_ENVIRONMENT, ["CNI_CONTAINERID", "a..b"]),
    "a container id with a slash": ({"container": "a/b"}, Code.INVALID_ENVIRONMENT, ["CNI_CONTAINERID", "a/b"]),
    "an interface name too long": ({"ifname": "sixteen-letters-"}, Code.INVALID_ENVIRONMENT, ["CNI_IFNAME", "15"]),
    "an interface name with a slash": ({"ifname": "a/b"}, Code.INVALID_ENVIRONMENT, ["CNI_IFNAME", "a/b"]),
    "CNI_ARGS without values": ({"args": "nonsense"}, Code.INVALID_ENVIRONMENT, ["CNI_ARGS", "nonsense", "NAME=VALUE"]),
    "CNI_ARGS with a strange IP": ({"args": "IP=here"}, Code.INVALID_ENVIRONMENT, ["CNI_ARGS", "here"]),
    "unsupported version": (
        {"conf": {"cniVersion": "9.9.9"}},
        Code.INCOMPATIBLE_VERSION,
        ["cniVersion", "9.9.9", "1.1.0"],
    ),
    "no name": ({"conf": {"name": None}}, Code.INVALID_CONFIGURATION, ["name"]),
    "subnet too small": (
        ipam(subnet="10.244.1.0/32"),
        Code.INVALID_CONFIGURATION,
        ["ipam.subnet", "10.244.1.0/32", "/31"],
    ),
    "malformed subnet": (ipam(subnet="10.244.1.0"), Code.INVALID_CONFIGURATION, ["ipam.subnet", "10.244.1.0"]),
    "subnet with host bits": (
        ipam(subnet="10.244.1.7/24"),
        Code.INVALID_CONFIGURATION,
        ["ipam.subnet", "10.244.1.0/24"],
    ),
    "overlapping subnets": (
        {"conf": {"ipam": {"ranges": [[{"subnet": "10.244.1.0/24"}], [{"subnet": "10.244.1.128/25"}]]}}},
        Code.INVALID_CONFIGURATION,
        ["10.244.1.0/24", "10.244.1.128/25", "overlap"],
    ),
    "gateway outside": (ipam(gateway="10.9.9.9"), Code.INVALID_CONFIGURATION, ["ipam.gateway", "10.9.9.9", "inside"]),
    "range backwards": (
        ipam(rangeStart="10.244.1.20", rangeEnd="10.244.1.10"),
        Code.INVALID_CONFIGURATION,
        ["rangeStart", "10.244.1.20", "10.244.1.10", "exchange"],
    ),
    "unknown strategy": (
        ipam(allocation_strategy="magic"),
        Code.INVALID_CONFIGURATION,
        ["allocation_strategy", "magic", "random"],
    ),
    "MTU too small": ({"conf": {"mtu": 100}}, Code.INVALID_CONFIGURATION, ["mtu", "100", "576"]),
    "timeout out of range": ({"conf": {"timeout_seconds": 0}}, Code.INVALID_CONFIGURATION, ["timeout_seconds", "110"]),
    "an address outside the subnet": (
        {"conf": {"runtimeConfig": {"ips": ["10.9.9.9"]}}},
        Code.ADDRESS_REFUSED,
        ["10.9.9.9", "10.244.1.0/24"],
    ),
    "the gateway's address": ({"args": "IP=10.244.1.1"}, Code.ADDRESS_REFUSED, ["10.244.1.1", "gateway"]),
    "no such namespace": ({"netns": "/run/netns/none"}, Code.UNKNOWN_CONTAINER, ["CNI_NETNS", "/run/netns/none"]),
    "a namespace that is a file": ({"netns": "/etc/passwd"}, Code.INVALID_ENVIRONMENT, ["CNI_NETNS", "/etc/passwd"]),
    "a namespace that is a directory": ({"netns": "/proc"}, Code.INVALID_ENVIRONMENT, ["CNI_NETNS", "/proc"]),
    "another kind of namespace": ({"netns": "/proc/self/ns/uts"}, Code.INVALID_ENVIRONMENT, ["CNI_NETNS", "uts"]),
    "relative state_dir": ({"conf": {"state_dir": "here"}}, Code.INVALID_CONFIGURATION, ["state_dir", "here"]),
    "an IPAM plugin that is not there": (
        {"conf": {"ipam": {"type": "none-such"}}},
        Code.DELEGATE_FAILED,
        ["none-such", "/opt/cni/bin"],
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_bad_input_is_told_and_leaves_nothing(site, wrong):
    change, code, words = WRONG[wrong]
    more = dict(change)
    answer = site.call(more.pop("verb", "ADD"), more.pop("container", "box"), **more)
    assert answer.code == 1
    assert answer.json["code"] == code, answer.json
    text = f"{answer.json['msg']}; {answer.json['details']}"
    assert [word for word in words if word not in text] == [], text
    assert answer.json["details"], "no cure"
    wait_until(lambda: not site.records(), otherwise=lambda: str(site.records()))
    assert site.wrongs() == []
    assert site.files("intents") == site.files("results") == []


NOT_A_CONFIGURATION = {
    "empty": b"",
    "blank": b" \n",
    "cut off": b'{"cniVersion": "1.0.0", "na',
    "list": b"[]",
    "binary": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("kind", NOT_A_CONFIGURATION)
def test_what_is_no_configuration_is_answered_by_the_daemon_of_the_default_directory(site, kind):
    """The plugin cannot find `state_dir` in it; here the default is ours, in a mount namespace of the call's own."""
    default = (
        f"mount -t tmpfs tmpfs /var/lib && mkdir /var/lib/headcni && mount --bind {site.state_dir} /var/lib/headcni"
    )
    command = ("unshare", "--mount", "sh", "-c", f'{default} && exec "$@"', "sh", *PLUGIN)
    answer = site.call("ADD", raw=NOT_A_CONFIGURATION[kind], command=command)
    assert answer.json["code"] == Code.DECODE_FAILURE
    assert "configuration" in answer.json["msg"]
    assert answer.json["details"]
    assert site.files("intents") == site.files("results") == []


def test_a_configuration_that_is_cut_off_is_answered(site):
    answer = site.call("ADD", raw=json.dumps(site.conf).encode()[:-1])
    assert answer.json["code"] == Code.DECODE_FAILURE


def test_an_interface_name_that_is_taken_in_the_pod(site):
    site.pod("box").run("ip", "link", "add", "eth0", "type", "bridge")
    answer = site.call("ADD")
    assert answer.json["code"] == Code.INTERFACE_TAKEN
    assert "eth0" in answer.json["msg"]
    assert answer.json["details"]
    wait_until(lambda: not site.records())
    assert not site.host_links()
    assert "bridge" in site.pod("box").run("ip", "-d", "link", "show", "eth0")
    site.pod("box").run("ip", "link", "del", "eth0")


def test_the_same_container_in_another_namespace(site):
    site.add()
    elsewhere = site.pod("elsewhere").path
    answer = site.call("ADD", netns=elsewhere)
    assert answer.json["code"] == Code.ATTACHMENT_EXISTS
    assert site.pod("box").path in json.dumps(answer.json)
    assert site.wrongs() == []


def test_an_unknown_key_is_a_warning_once(site):
    for _ in range(2):
        site.add(conf={"surprise": 1, "ipam": {"subnet": "10.244.1.0/24", "wonder": 2}})
    assert len(site.log_lines("unknown key surprise")) == 1
    assert len(site.log_lines("unknown key ipam.wonder")) == 1
    wait_until(lambda: any("surprise" in warning for warning in site.daemon.status()["warnings"]), 2)
