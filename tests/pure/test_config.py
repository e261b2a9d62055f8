"""The daemon's configuration: who wins, what is refused, and how that is said."""

from __future__ import annotations

import os
import sys
from dataclasses import fields
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from configured import loaded, refused

from reconciler.config import Change, Config, changes
from reconciler.settings import SETTINGS, StaticRoute

OWN, BASE, ROUTES = "network.podCIDR.nodeLocal", "network.podCIDR.base", "network.staticRoutes"
SERVICES = "network.serviceCIDR"


def test_the_table_and_the_configuration_name_the_same_fields():
    assert [s.field for s in SETTINGS] == [f.name for f in fields(Config) if f.name not in ("origins", "warnings")]


def test_keys_flags_and_variables_are_unique():
    for names in ([s.key for s in SETTINGS], [s.flag for s in SETTINGS if s.flag], [s.env for s in SETTINGS]):
        assert len(set(names)) == len(names)


def test_defaults_are_valid_and_say_so():
    config = loaded()
    assert config.state_dir == Path("/var/lib/headcni")
    assert config.cluster_cidrs == (ip_network("10.244.0.0/16"),)
    assert (config.node_prefix, config.mtu, config.metrics_port, config.log_level) == (24, 0, 8080, "info")
    assert (config.mesh_mode, config.kube_mode, config.masquerade) == ("none", "auto", True)
    assert (config.kube_url, config.kubeconfig, config.kube_ca_file, config.kube_token_file) == ("", None, None, None)
    assert set(config.origins.values()) == {"default"}
    assert config.warnings == ()


def test_every_spelling_of_the_state_directory_is_the_same(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    spellings = ("real", "link", "real/../link/", "./real", "link/.")
    assert {loaded({"stateDir": f"{tmp_path}/{each}"}).state_dir for each in spellings} == {tmp_path.resolve() / "real"}


# --- who wins


def test_flag_over_environment_over_file_over_default(yaml):
    file = yaml("logLevel: debug")
    env = {"HEADCNI_LOG_LEVEL": "warning"}
    assert loaded({"logLevel": "error"}, env, file).log_level == "error"
    assert loaded({}, env, file).log_level == "warning"
    assert loaded({}, {}, file).log_level == "debug"
    assert loaded({}, {}, None).log_level == "info"


def test_every_origin_is_named(yaml):
    file = yaml("metrics: {path: /m}")
    origins = loaded({"network.mtu": "1400"}, {"HEADCNI_MESH": "none"}, file).origins
    assert origins["network.mtu"] == "flag --mtu"
    assert origins["mesh.mode"] == "environment HEADCNI_MESH"
    assert origins["metrics.path"] == f"file {file}"
    assert origins["stateDir"] == "default"


def test_the_file_wins_over_node_pod_cidr_and_that_is_said(yaml):
    file = yaml("network: {podCIDR: {nodeLocal: [10.244.3.0/24]}}")
    config = loaded({}, {"NODE_POD_CIDR": "10.244.9.0/24"}, file)
    assert config.pod_cidrs == (ip_network("10.244.3.0/24"),)
    (warning,) = config.warnings
    assert "NODE_POD_CIDR=10.244.9.0/24 is not used" in warning
    assert loaded({"network.podCIDR.nodeLocal": ["10.244.4.0/24"]}, {}, file).pod_cidrs[
        0
    ].network_address == ip_address("10.244.4.0")


def test_the_same_in_both_is_no_warning(yaml):
    file = yaml("network: {podCIDR: {nodeLocal: 10.244.3.0/24}}")
    assert loaded({}, {"NODE_POD_CIDR": "10.244.3.0/24"}, file).warnings == ()


def test_empty_variables_and_keys_without_value_count_as_not_given(yaml):
    config = loaded({}, {"HEADCNI_MESH": "", "NODE_POD_CIDR": ""}, yaml("logLevel:\nnetwork:\n  mtu:\n"))
    assert set(config.origins.values()) == {"default"}


def test_an_empty_file_is_valid(yaml):
    assert loaded({}, {}, yaml("")) == loaded()


def test_yaml_is_imported_only_for_a_file(monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    loaded()


# --- how values may be written


@pytest.mark.parametrize(
    "given",
    [
        ["10.244.1.0/24", "fd00:1::/64"],
        ["10.244.1.0/24,fd00:1::/64"],
        "10.244.1.0/24, fd00:1::/64",
        "10.244.1.0/24,fd00:1::/64,",
    ],
)
def test_lists_of_cidrs(given):
    flags = {"network.podCIDR.nodeLocal": given, "network.podCIDR.base": "10.244.0.0/16,fd00::/16"}
    assert loaded(flags).pod_cidrs == (ip_network("10.244.1.0/24"), ip_network("fd00:1::/64"))


def test_static_routes_from_flags_and_from_the_file(yaml):
    v4, v6 = "{dst: 10.244.2.0/24, via: 192.0.2.2}", "{dst: 'fd00:2::/64', via: '2001:db8::2'}"
    file = yaml(f"network:\n  staticRoutes:\n  - {v4}\n  - {v6}\n")
    expected = (
        StaticRoute(ip_network("10.244.2.0/24"), ip_address("192.0.2.2")),
        StaticRoute(ip_network("fd00:2::/64"), ip_address("2001:db8::2")),
    )
    assert loaded({}, {}, file).static_routes == expected
    flag = ["10.244.2.0/24=192.0.2.2", "fd00:2::/64 = 2001:db8::2"]
    assert loaded({"network.staticRoutes": flag}).static_routes == expected


@pytest.mark.parametrize("text", ["kube: {mode: off}", "kube: {mode: 'off'}", "kube: {mode: OFF}"])
def test_a_bare_off_is_not_lost_to_yaml(yaml, text):
    assert loaded({}, {}, yaml(text)).kube_mode == "off"


@pytest.mark.parametrize(("text", "expected"), [("true", True), ("no", False), ("0", False), ("YES", True)])
def test_booleans_from_the_environment(text, expected):
    assert loaded({}, {"HEADCNI_MASQUERADE": text}).masquerade is expected


@pytest.mark.parametrize("given", ["/26", "26", 26])
def test_the_share_of_a_node(given):
    assert loaded({"network.podCIDR.perNode": given}).node_prefix == 26


# --- what is refused, and how


@pytest.mark.parametrize(
    ("key", "value", "what", "cure"),
    [
        ("stateDir", "var/lib", "not an absolute path", "begins with /"),
        ("network.podCIDR.base", "10.244.0.0", "'10.244.0.0' is not a CIDR", "like 10.244.1.0/24"),
        ("network.podCIDR.base", "10.300.0.0/16", "is not a CIDR", "like"),
        ("network.podCIDR.base", "10.244.0.1/16", "bits set beyond", "write 10.244.0.0/16"),
        ("network.podCIDR.base", "10.1.0.0/16,10.2.0.0/16", "one address family twice", "at most one IPv4"),
        ("network.podCIDR.base", [7], "7 is not a CIDR", "like"),
        ("network.podCIDR.perNode", "/33", "not a prefix length", "/8 to /30"),
        ("network.masquerade", "perhaps", "neither true nor false", "true or false"),
        ("network.staticRoutes", "10.1.0.0/16", "is not a route", "dst and via"),
        ("network.staticRoutes", [{"dst": "10.1.0.0/16"}], "is not a route", "dst and via"),
        ("network.staticRoutes", "10.1.0.1/16=192.0.2.1", "host bits", "dst and via"),
        ("network.staticRoutes", "10.1.0.0/16=fe80::1", "mixes IPv4 and IPv6", "family of dst"),
        ("network.staticRoutes", "10.1.0.0/16=192.0.2.1,10.1.0.0/16=192.0.2.2", "two routes", "keep one"),
        ("network.mtu", "575", "out of range", "0 or 576 to 65535"),
        ("network.mtu", "-1", "out of range", "whole number"),
        ("network.mtu", True, "out of range", "whole number"),
        ("mesh.mode", "flannel", "unknown", "one of none"),
        ("kube.mode", "maybe", "unknown", "one of auto, off"),
        ("kube.url", "192.0.2.1:6443", "not the URL of an API server", "like https://192.0.2.1:6443"),
        ("kube.url", "https://192.0.2.1:6443/?x", "not the URL of an API server", "scheme, host and port"),
        ("kube.url", "http://192.0.2.1:8080", "not encrypted", "write https://"),
        ("kube.kubeconfig", "kubeconfig", "not an absolute path", "begins with /"),
        ("metrics.address", "localhost", "not an IP address", "127.0.0.1"),
        ("metrics.port", "65536", "out of range", "0 to 65535"),
        ("metrics.port", 80.5, "out of range", "whole number"),
        ("metrics.path", "metrics", "not the path", "begins with /"),
        ("metrics.path", "/a b", "not the path", "begins with /"),
        ("logLevel", "loud", "unknown", "info, debug, warning, error"),
        ("history.maxRecords", "0", "out of range", "100 to"),
        ("history.maxDays", "0", "out of range", "1 to"),
    ],
)
def test_each_wrong_value_is_told_with_its_cure(key, value, what, cure):
    (problem,) = refused({key: value})
    assert problem.key == key
    assert what in problem.what
    assert cure in problem.cure
    assert str(problem).startswith(f"{key} = ")


def test_all_problems_are_told_at_once_each_with_its_origin(yaml):
    file = yaml("network: {mtu: 12, podCDIR: {base: 10.0.0.0/8}}\nlogLevel: loud\n")
    problems = refused({"metrics.port": "http"}, {"HEADCNI_MESH": "flannel"}, file)
    assert {(p.key, p.origin) for p in problems} == {
        ("metrics.port", "flag --metrics-port"),
        ("mesh.mode", "environment HEADCNI_MESH"),
        ("network.mtu", f"file {file}"),
        ("logLevel", f"file {file}"),
        ("network.podCDIR.base", f"file {file}"),
    }


@pytest.mark.parametrize(
    ("text", "key", "near"),
    [
        ("network: {podCDIR: {base: x}}", "network.podCDIR.base", "network.podCIDR.base"),
        ("metrics: {prot: 1}", "metrics.prot", "metrics.port"),
        ("loglevel: info", "loglevel", "logLevel"),
        ("serviceCIDR: 10.96.0.0/16", "serviceCIDR", "network.serviceCIDR"),
    ],
)
def test_an_unknown_key_is_named_with_its_nearest(yaml, text, key, near):
    (problem,) = refused({}, {}, yaml(text))
    assert (problem.key, problem.cure) == (key, f"did you mean {near}?")


def test_a_key_like_no_other_is_refused_as_well(yaml):
    (problem,) = refused({}, {}, yaml("zzz: 1"))
    assert "headcni config" in problem.cure


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a: [", "is cut off, or not YAML, at line 2"),
        ("- a", "holds a list"),
        ("\t", "not YAML"),
        ("!!python/name:os.system", "holds a text, not keys"),
        ("logLevel: info\nmesh:\n  mode: none\n  mode: tailscale", "has the key 'mode' twice"),
        ("logLevel: info\n---\nlogLevel: debug", "holds 2 documents"),
        ("!!bool foo: !!timestamp bar", "no such setting"),
        ("logLevel: &a {b: *a}", "is unknown"),
    ],
)
def test_a_file_that_is_no_configuration(yaml, text, what):
    (problem,) = refused({}, {}, yaml(text))
    assert what in problem.what
    assert "\n" not in str(problem)


def test_a_file_that_is_missing_and_one_that_is_a_directory(tmp_path):
    (missing,) = refused({}, {}, tmp_path / "none.yaml")
    assert "does not exist" in missing.what
    (directory,) = refused({}, {}, tmp_path)
    assert "subPath" in directory.cure


def test_a_file_that_would_never_end(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (fifo,) = refused({}, {}, tmp_path / "fifo")
    assert "is a FIFO" in fifo.what
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 100 << 20)
    (huge,) = refused({}, {}, tmp_path / "huge")
    assert "only 1048576 are read" in huge.what


def test_brackets_without_end(yaml):
    (problem,) = refused({}, {}, yaml("a: " + "[" * 20_000))
    assert "nested deeper than 64" in problem.what


# --- between settings


@pytest.mark.parametrize(
    ("flags", "key", "what"),
    [
        ({OWN: "10.96.4.0/24", SERVICES: "10.96.0.0/16"}, OWN, "overlaps network.serviceCIDR 10.96.0.0/16"),
        ({BASE: "10.0.0.0/8", SERVICES: "10.96.0.0/16"}, BASE, "overlaps network.serviceCIDR 10.96.0.0/16"),
        ({"network.podCIDR.perNode": "/12", BASE: "10.244.0.0/16"}, "network.podCIDR.perNode", "wider than"),
        ({OWN: "10.244.1.9/32"}, OWN, "10.244.1.9/32 has no room for a gateway and a pod"),
        ({OWN: "10.244.1.0/24", ROUTES: "10.244.1.0/25=192.0.2.2"}, ROUTES, "this node's"),
        ({BASE: "10.244.0.0/16,fd00::/48", "network.mtu": "1279"}, "network.mtu", "too small for IPv6"),
    ],
)
def test_values_that_contradict_each_other(flags, key, what):
    problems = refused(flags)
    assert [(p.key, what in p.what) for p in problems if p.key == key] == [(key, True)]


@pytest.mark.parametrize("flags", [{OWN: "10.96.5.0/24"}, {"network.podCIDR.perNode": "/12"}, {BASE: "10.0.0.0/8"}])
def test_a_mere_default_contradicts_nobody(flags):
    """The node's files may say otherwise."""
    loaded(flags)


def test_a_malformed_variable_that_is_one_source_of_several_is_told_and_passed_over(yaml):
    config = loaded({}, {"NODE_POD_CIDR": "10.244.2.7/24"})
    assert config.pod_cidrs == ()
    (warning,) = config.warnings
    assert warning.startswith("network.podCIDR.nodeLocal: NODE_POD_CIDR=10.244.2.7/24 ")
    assert warning.endswith("the next source is tried")


def test_settings_of_what_is_switched_off_are_said_to_have_no_effect():
    off = loaded({"kube.mode": "off", "kube.url": "https://192.0.2.1:6443"})
    assert "kube.url: no effect, as kube.mode is off" in off.warnings
    assert not any("kube" in each for each in loaded({"kube.url": "https://192.0.2.1:6443"}).warnings)


def test_a_wider_route_may_cover_this_node():
    loaded({"network.podCIDR.nodeLocal": "10.244.1.0/24", "network.staticRoutes": "10.244.0.0/16=192.0.2.2"})


def test_a_wrong_value_causes_no_second_complaint():
    assert len(refused({"network.podCIDR.base": "10.0.0.0/8x", "network.podCIDR.perNode": "/12"})) == 1


def test_a_pod_cidr_outside_the_cluster_is_a_warning():
    (warning,) = loaded({"network.podCIDR.nodeLocal": "10.9.1.0/24"}).warnings
    assert "10.9.1.0/24 is outside network.podCIDR.base 10.244.0.0/16" in warning


# --- SIGHUP


def test_nothing_changed():
    assert changes(loaded(), loaded({}, {"HEADCNI_MTU": "0"})) == []


def test_what_changed_and_whether_a_restart_is_needed():
    old, new = loaded(), loaded({"logLevel": "debug", "metrics.port": "9090", "network.masquerade": False})
    assert changes(old, new) == [
        Change("network.masquerade", "true", "false", needs_restart=False),
        Change("metrics.port", "8080", "9090", needs_restart=True),
        Change("logLevel", "info", "debug", needs_restart=False),
    ]


@pytest.mark.parametrize("url", ["https://admin:s3cret@192.0.2.1", "https://s3cret@192.0.2.1:6443"])
def test_a_url_of_the_api_with_a_password_is_refused_without_being_shown(url):
    (problem,) = refused({"kube.url": url})
    assert "s3cret" not in str(problem)


def test_a_url_of_the_api_may_have_a_path_and_be_a_local_proxy():
    assert loaded({"kube.url": "https://rancher.example/k8s/clusters/c-1/"}).kube_url.endswith("/c-1")
    assert loaded({"kube.url": "http://127.0.0.1:8001"}).kube_url == "http://127.0.0.1:8001"
