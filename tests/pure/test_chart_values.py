"""The chart's values, schema and files against the code that they speak to. Rendering it needs Helm: tests/peers."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from deploy.image.build import default_name
from reconciler.kube.node import NODE_KEY, TAILNET_ADDRESS
from reconciler.kube.rbac import LEASE
from reconciler.observe import Observer
from reconciler.operate.metrics import Metrics
from reconciler.parsers import Wrong
from reconciler.settings import BY_KEY
from tests.pure.test_metrics import STATUS

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/chart/headcni"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())

# Of the daemon's settings, those that the chart sets by itself: paths inside the container, and the node's name.
OWN = {
    *("node.name", "node.root", "cni.template", "kube.kubeconfig", "kube.caFile", "kube.tokenFile"),
    *("headscale.authKeyFile", "headscale.apiKeyFile", "headscale.caFile"),
}
# Of `config`, what is no setting: keys and the authority become files, ipam is of the network configuration.
NO_SETTING = {"headscale.authKey", "headscale.apiKey", "headscale.existingSecret", "headscale.ca", "ipam.type"}
# Where an empty value is no default, but means that the chart or the daemon finds out.
FOUND_OUT = {"network.podCIDR.base", "network.serviceCIDR", "mesh.mode"}


def flat(values, above=""):
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def properties(schema, above=""):
    schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    if "properties" not in schema or schema.get("type") != "object":
        yield above.rstrip("."), schema
        return
    for key, inner in schema["properties"].items():
        yield from properties(inner, f"{above}{key}.")


CONFIG = dict(flat(VALUES["config"]))
IN_SCHEMA = dict(properties(SCHEMA["properties"]["config"]))


def why_not(**changes):
    """What the schema says of the defaults with these changes, by the dotted path of each."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for path, value in changes.items():
        *above, last = path.split(".")
        at = values
        for key in above:
            at = at[key]
        at[last] = value
    return [f"{'.'.join(map(str, each.path))}: {each.message}" for each in validator().iter_errors(values)]


def validator():
    return jsonschema.Draft7Validator(SCHEMA)


def test_the_schema_is_one_and_the_defaults_keep_to_it():
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert why_not() == []


def test_values_and_schema_know_the_same_keys():
    assert set(VALUES) == set(SCHEMA["properties"]) - {"global"}
    assert set(CONFIG) == set(IN_SCHEMA)
    for key in set(VALUES) - {"config"}:
        if "properties" in SCHEMA["properties"][key]:
            assert set(VALUES[key]) == set(SCHEMA["properties"][key]["properties"]), key


def test_no_object_takes_unknown_keys():
    def open_ones(schema, path):
        if (
            schema.get("type") == "object"
            and "properties" in schema
            and schema.get("additionalProperties") is not False
        ):
            yield path
        for key, inner in schema.get("properties", {}).items():
            yield from open_ones(inner, f"{path}.{key}")

    assert list(open_ones(SCHEMA, "")) == [".config.ipam"]  # keys of other IPAM plugins are handed on


def test_every_setting_has_its_value_under_the_same_name():
    assert set(CONFIG) - NO_SETTING == set(BY_KEY) - OWN


@pytest.mark.parametrize("key", sorted(set(CONFIG) - NO_SETTING))
def test_a_default_is_the_daemons_or_empty(key):
    value, setting = CONFIG[key], BY_KEY[key]
    if key in FOUND_OUT or value in ("", []):
        assert value in ("", [])
        assert setting.default in ("", []) or key in FOUND_OUT, (
            "an empty value is left out, so this default would count"
        )
    else:
        assert setting.parse(value) == setting.parse(setting.default)


@pytest.mark.parametrize("key", [key for key, schema in IN_SCHEMA.items() if "enum" in schema])
def test_a_choice_is_the_daemons(key):
    for value in IN_SCHEMA[key]["enum"]:
        assert value == "" or not isinstance(BY_KEY[key].parse(value), Wrong), value


REFUSED = {
    "config.stateDir": ["/headcni", "var/lib/headcni", "/var/lib/headcni/", ""],
    "config.network.podCIDR.base": ["10.244.0.0", "10.244.0.0/16 10.245.0.0/16", 7, ["10.244.0.0"]],
    "config.network.podCIDR.perNode": ["/7", "/31", 31, "24 "],
    "config.network.mtu": [575, 65536, "1280"],
    "config.network.masquerade": ["yes"],
    "config.network.staticRoutes": ["10.244.2.0/24=192.0.2.2", [{"dst": "10.244.2.0/24"}], ["10.244.2.0/24"]],
    "config.mesh.mode": ["wireguard"],
    "config.mesh.probePort": [65536, -1],
    "config.headscale.url": ["headscale.example.com", "https://user@headscale.example.com", "https://"],
    "config.headscale.authKey": [None, 5],
    "config.headscale.existingSecret": ["Upper", "-a"],
    "config.headscale.ca": ["/etc/ssl/ca.pem"],
    "config.tailscale.socket": ["tailscaled.sock", "/run/tailscaled.sock"],
    "config.tailscale.tags": [["k8s"], "tag:k8s"],
    "config.kube.mode": [False, "on"],
    "config.kube.url": ["192.0.2.1:6443", "https://me@192.0.2.1"],
    "config.metrics.port": [0, 65536, "8080"],
    "config.metrics.address": ["localhost", ""],
    "config.metrics.path": ["metrics", "/a?b"],
    "config.history.maxRecords": [99, 1_000_001],
    "config.cni.binDir": ["opt/cni/bin", "/", "/opt/cni/bin/"],
    "config.cni.confFile": ["10-headcni.conf", "../10-headcni.conflist"],
    "config.ipam.allocation_strategy": ["fifo"],
    "config.ipam.cooldown_seconds": [3601],
    "config.ipam.unknown": [1],
    "conflist.cniVersion": ["1.2.0"],
    "conflist.chained": [["headcni"], "portmap"],
    "distribution": ["minikube", ""],
    "image.digest": ["sha256:abc"],
    "image.pullPolicy": ["Sometimes"],
    "nodeFiles": [["etc/passwd"], ["/"]],
    "maxUnavailable": ["0%", 0, "101%"],
    "approver.replicas": [0],
    "uninstall.hook": [True],
    "typo": [1],
}


@pytest.mark.parametrize(("path", "value"), [(path, value) for path, values in REFUSED.items() for value in values])
def test_the_schema_refuses(path, value):
    assert why_not(**{path: value})


TAKEN = {
    "config.network.podCIDR.base": ["10.42.0.0/16", "10.42.0.0/16,fd42::/48", ["10.42.0.0/16", "fd42::/48"]],
    "config.network.podCIDR.perNode": ["/24", "26", 26],
    "config.network.mtu": [0, 576, 65535],
    "config.network.staticRoutes": [["10.244.2.0/24=192.0.2.2"], [{"dst": "10.244.2.0/24", "via": "192.0.2.2"}]],
    "config.headscale.url": ["https://headscale.example.com", "http://192.0.2.1:8080", "https://[2001:db8::1]:443/"],
    "config.kube.url": ["https://192.0.2.1:6443", "https://gateway.example.com/clusters/one"],
    "config.metrics.address": ["::", "0.0.0.0"],
    "config.ipam": [{"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]]}],
    "conflist.chained": [[], ["portmap", "bandwidth"], None],
    "nodeFiles": [[], ["/etc/kubernetes/kubelet.conf", "/etc/kubernetes/manifests/"]],
    "global": [{"anything": 1}],
}


@pytest.mark.parametrize(("path", "value"), [(path, value) for path, values in TAKEN.items() for value in values])
def test_the_schema_takes(path, value):
    assert why_not(**{path: value}) == []
    key = path.removeprefix("config.")
    assert key not in BY_KEY or not isinstance(BY_KEY[key].parse(value), Wrong)


@pytest.mark.parametrize("name", ["authKey", "apiKey"])
def test_a_key_that_is_refused_is_not_shown(name):
    """JSON schema shows what does not fit, so of a key only its type and length are looked at."""
    assert set(SCHEMA["properties"]["config"]["properties"]["headscale"]["properties"][name]) == {"type", "maxLength"}


def test_the_chart_has_the_version_of_the_program():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    program = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert chart["appVersion"] == program


def test_the_chart_runs_the_image_that_is_built():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert f"{VALUES['image']['repository']}:{chart['appVersion']}" == default_name()
    assert (VALUES["image"]["tag"], VALUES["image"]["digest"]) == ("", "")


def metrics():
    text = Metrics(Observer(), lambda: STATUS).render()
    return {family.name for family in text_string_to_metric_families(text)}


@pytest.mark.parametrize("file", ["alerts.yaml", "dashboard.json"])
def test_alerts_and_dashboard_ask_for_metrics_that_exist(file):
    text = (CHART / "files" / file).read_text()
    expressions = re.findall(r'(?:"expr"|expr):\s*(.*)', text)
    named = {name for each in expressions for name in re.findall(r"\b(?:headcni|process)_[a-z_]+", each)}
    assert len(named) > 5
    assert {re.sub(r"_(total|bucket)$", "", each) for each in named} - metrics() == set()


def test_the_templates_name_what_the_code_names():
    policy = (CHART / "templates/identity-policy.yaml").read_text()
    assert f"['{NODE_KEY}', '{TAILNET_ADDRESS}']" in policy
    assert f"resourceNames: [{LEASE}]" in (CHART / "templates/rbac.yaml").read_text()
