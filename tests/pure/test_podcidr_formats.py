"""What a file holds, whoever wrote it and in which form; and files that cannot be understood."""

from __future__ import annotations

import json
import time

import pytest

from reconciler.node.formats import About, Entry, Held, held
from reconciler.plainyaml import Malformed, documents

NODE, CLUSTER, SERVICES = About.NODE, About.CLUSTER, About.SERVICES

POD = """
apiVersion: v1
kind: Pod
spec:
  containers:
  - name: other
  - {command}
"""
CONFIG_MAP = """
kind: ConfigMap
data:
  ClusterConfiguration: |
    kind: ClusterConfiguration
    networking:
      podSubnet: 10.244.0.0/16
      serviceSubnet: 10.96.0.0/12
  ClusterStatus: ""
"""


def entries(text: str | bytes) -> dict[About, tuple[str, object]]:
    found = held(text.encode() if isinstance(text, str) else text)
    assert isinstance(found, Held), found
    return {entry.about: (entry.key, entry.value) for entry in reversed(found.entries)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kind: KubeletConfiguration\npodCIDR: 10.244.1.0/24\n", {NODE: ("podCIDR", "10.244.1.0/24")}),
        ("pod-cidr: 10.244.1.0/24\n", {NODE: ("pod-cidr", "10.244.1.0/24")}),
        ("podCIDR: fd00:1::/64\n", {NODE: ("podCIDR", "fd00:1::/64")}),
        ("podCIDR: 10.1.0.0/24,fd00::/64", {NODE: ("podCIDR", "10.1.0.0/24,fd00::/64")}),
        (
            "kind: Node\nspec:\n  podCIDR: 10.1.0.0/24\n  podCIDRs:\n  - 10.1.0.0/24\n  - fd00::/64\n",
            {NODE: ("spec.podCIDRs", ["10.1.0.0/24", "fd00::/64"])},
        ),
        (
            "networking: {podSubnet: 10.244.0.0/16, serviceSubnet: 10.96.0.0/12}",
            {
                CLUSTER: ("networking.podSubnet", "10.244.0.0/16"),
                SERVICES: ("networking.serviceSubnet", "10.96.0.0/12"),
            },
        ),
        (
            "cluster-cidr: 10.42.0.0/16,2001:db8::/56\nservice-cidr:\n- 10.43.0.0/16\n",
            {CLUSTER: ("cluster-cidr", "10.42.0.0/16,2001:db8::/56"), SERVICES: ("service-cidr", ["10.43.0.0/16"])},
        ),
        (
            CONFIG_MAP,
            {
                CLUSTER: ("data.ClusterConfiguration.networking.podSubnet", "10.244.0.0/16"),
                SERVICES: ("data.ClusterConfiguration.networking.serviceSubnet", "10.96.0.0/12"),
            },
        ),
        ("a: &cidr 10.1.0.0/24\npodCIDR: *cidr\n", {NODE: ("podCIDR", "10.1.0.0/24")}),
    ],
)
def test_keys(text, expected):
    assert entries(text) == expected


def test_the_document_that_has_it_may_be_any_of_several():
    text = "kind: InitConfiguration\n---\nkind: ClusterConfiguration\nnetworking:\n  podSubnet: 10.1.0.0/16\n---\n"
    found = held((text + "kind: KubeProxyConfiguration\nclusterCIDR: 10.2.0.0/16\n").encode())
    assert found.kinds == ("InitConfiguration", "ClusterConfiguration", "KubeProxyConfiguration")
    assert found.first(CLUSTER) == Entry(CLUSTER, "networking.podSubnet", "10.1.0.0/16")


@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_json_is_read_with_blanks_and_with_tabs(indent):
    body = {"kind": "KubeletConfiguration", "podCIDR": "10.244.1.0/24", "port": 10250, "readOnly": False}
    assert entries(json.dumps(body, indent=indent)) == {NODE: ("podCIDR", "10.244.1.0/24")}


def test_a_json_config_map_in_which_there_is_yaml():
    inner = "networking:\n  podSubnet: 10.1.0.0/16\n"
    text = json.dumps({"kind": "ConfigMap", "data": {"ClusterConfiguration": inner}})
    assert entries(text)[CLUSTER][1] == "10.1.0.0/16"


def test_yaml_that_begins_like_json():
    assert entries("{podCIDR: 10.1.0.0/24, # a comment\n}") == {NODE: ("podCIDR", "10.1.0.0/24")}


@pytest.mark.parametrize(
    "command",
    [
        "command: [kube-controller-manager, --cluster-cidr=10.244.0.0/16, --service-cluster-ip-range=10.96.0.0/12]",
        "command: [kube-controller-manager, --cluster-cidr, 10.244.0.0/16, --service-cluster-ip-range, 10.96.0.0/12]",
        "args: [--cluster-cidr=10.244.0.0/16, --service-cluster-ip-range, 10.96.0.0/12]",
        "{command: [kube-controller-manager, --cluster-cidr], args: [10.244.0.0/16, "
        "--service-cluster-ip-range=10.96.0.0/12]}",
        "command: [/bin/sh, -c, 'exec kcm --cluster-cidr=10.244.0.0/16 --service-cluster-ip-range=10.96.0.0/12 2>&1']",
        "command: [kcm, --cluster-cidr=10.9.0.0/16, '--cluster-cidr=\"10.244.0.0/16\"', "
        "--service-cluster-ip-range=10.96.0.0/12]",
    ],
)
def test_flags_of_a_static_pod(command):
    expected = {CLUSTER: ("--cluster-cidr", "10.244.0.0/16"), SERVICES: ("--service-cluster-ip-range", "10.96.0.0/12")}
    assert entries(POD.format(command=command)) == expected


@pytest.mark.parametrize(
    "command",
    [
        "command: [kcm, --cluster-cidr]",
        "command: [kcm, --cluster-cidr, --allocate-node-cidrs=true]",
        "command: [kcm, --cluster-cidr=]",
        "command: kcm --cluster-cidr=10.1.0.0/16",
        "command: [kcm, --cluster-cidr-x=10.1.0.0/16, x--cluster-cidr=10.1.0.0/16]",
        "image: kcm",
    ],
)
def test_flags_without_a_value_say_nothing(command):
    assert entries(POD.format(command=command)) == {}


def test_a_file_of_flags_with_comments():
    text = "# of microk8s\n\n--kubeconfig=${SNAP_DATA}/proxy.config\n# --cluster-cidr=10.9.0.0/16\n"
    assert entries(text + "--cluster-cidr=10.1.0.0/16\n") == {CLUSTER: ("--cluster-cidr", "10.1.0.0/16")}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "---\n",
        "podCIDR:\n",
        'podCIDR: ""\n',
        "podCIDR: null\n",
        "podCIDR: ~",
        "podCIDR: []",
        "kind: Config\nclusters: []",
    ],
)
def test_nothing_is_said(text):
    assert entries(text) == {}


@pytest.mark.parametrize(
    ("text", "kinds"),
    [("", ()), ("kind: Config\nclusters: []", ("kubeconfig",)), ("a: b", ("configuration",)), ("[1]", ("list",))],
)
def test_what_it_is_instead(text, kinds):
    assert held(text.encode()).kinds == kinds


def test_a_config_map_without_its_key_tells_the_keys_it_has():
    assert held(b"kind: ConfigMap\ndata: {cluster.yaml: x, other: y}").has_instead == ("cluster.yaml", "other")
    assert held(b"kind: ConfigMap\n").has_instead == ()
    assert held(CONFIG_MAP.encode()).has_instead is None


# --- what cannot be understood


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"apiVersion: v1\ndata: {a: b", "cut off, or not YAML, at line 3"),
        (b'apiVersion: v1\nkey: "unfinished', "cut off, or not YAML, at line 2"),
        (b"a: b: c", "line 1, column 5"),
        (b'{"podCIDR": "10.1.0.0/24", ', "cut off"),
        (b"a: \0", "control characters"),
        (b"\xff\xfe\x00", "not text, at byte 0"),
        (b"a: \xe4", "not text, at byte 3"),
        (
            b"kind: ConfigMap\ndata:\n  ClusterConfiguration: 'a: {b'\n",
            "has a data.ClusterConfiguration that is cut off",
        ),
    ],
)
def test_malformed(raw, what):
    found = held(raw)
    assert isinstance(found, Malformed)
    assert what in found.what


def test_the_words_of_a_malformed_file_are_not_repeated():
    found = held(b"users:\n- user:\n    token: *hunter2\n    client-key-data: {hunter2\n")
    assert isinstance(found, Malformed)
    assert "hunter2" not in found.what


@pytest.mark.parametrize(
    "text",
    ["[" * 500_000, "{a: " * 100_000, "- " * 300_000, "? " * 300_000, "a: b\n" * 200_000, '{"a":' * 100_000],
    ids=["brackets", "braces", "dashes", "keys", "values", "json"],
)
def test_what_is_huge_or_deep_ends_soon(text):
    """PyYAML's own composer is killed by the first of these, with a signal."""
    began = time.monotonic()
    assert isinstance(held(text.encode()), Malformed)
    assert time.monotonic() - began < 5


def test_a_bomb_of_aliases_stays_small():
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)]
    (document,) = documents("\n".join([*levels, "podCIDR: *a39"]).encode())
    assert document["podCIDR"][0] is document["a38"]


@pytest.mark.parametrize(
    "text", ["a: 2024-13-45", "a: 0x_", "a: 1:99", "? [a]\n: b", "? {a: b}\n: c", "<<: *a", "!!python/name:os.system a"]
)
def test_nothing_is_made_of_what_is_written(text):
    assert isinstance(documents(text.encode()), list)
