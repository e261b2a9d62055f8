"""The chart as Helm renders it, without a cluster: what Kubernetes' schemas, the daemon and a reader ask of it."""

from __future__ import annotations

import base64
import json
import re
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from chart import (
    API,
    AUTH,
    CHART,
    MESH,
    NAMESPACE,
    SETS,
    STORED,
    containers,
    helm,
    leaving,
    named,
    of_kind,
    refusal,
    rendered,
    templates,
)
from kubernetes_validate import utils

from deploy.manifests.__main__ import FILE, LEAVE, made
from reconciler.install import template
from reconciler.kube.rbac import Role, manifests
from reconciler.operate.cli import main

pytestmark = pytest.mark.peers

VERSIONS = sorted(set(utils.all_versions()), key=lambda each: [int(part) for part in each.split(".")])
BEFORE = ["1.20.0", "1.21.0", "1.24.0"]  # for which nobody has schemas any more
CUSTOM = "monitoring.coreos.com/v1"  # of the Prometheus operator
FILES = {"config.yaml", "conflist", "headscale-ca.crt"}
KIND_OF = {"daemon": "DaemonSet/headcni", "approver": "Deployment/headcni-approver"}


@pytest.fixture(params=SETS)
def objects(request):
    return rendered(*SETS[request.param])


@pytest.fixture(scope="module", autouse=True)
def _schemas_are_read_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", cache(utils.schema_contents))
        yield


# --- Kubernetes


def test_lint_is_content():
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout
    assert "[WARNING]" not in done.stdout


def test_the_schemas_cover_the_years():
    assert {"1.25.0", "1.34.0", "1.37.0"} <= set(VERSIONS)


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_takes_what_is_rendered_for_it(version):
    checked = set()
    for values in SETS.values():
        objects = rendered(*values, kubernetes=version)
        leave = [leaving(objects)] if any("leaving.json" in each.get("data", {}) for each in objects) else []
        for each in objects + leave:
            content = json.dumps(each, sort_keys=True)
            if each["apiVersion"] != CUSTOM and content not in checked:
                kubernetes_validate.validate(each, version, strict=True)
                checked.add(content)
    assert len(checked) > 50


@pytest.mark.parametrize("version", BEFORE)
@pytest.mark.parametrize("values", SETS)
def test_versions_without_a_schema_get_only_what_they_knew(version, values):
    known = {
        *("v1", "apps/v1", "batch/v1", "rbac.authorization.k8s.io/v1", "networking.k8s.io/v1", CUSTOM),
        "policy/v1beta1" if version == "1.20.0" else "policy/v1",
    }
    assert {each["apiVersion"] for each in rendered(*SETS[values], kubernetes=version)} <= known


def test_an_older_version_is_refused():
    done = helm("template", "headcni", str(CHART), "--kube-version", "1.19.9")
    assert "requires kubeVersion: >=1.20.0" in done.stderr


def test_rights_are_those_of_the_list():
    objects = rendered(*SETS["approver"])
    expected = [*manifests(Role.DAEMON, NAMESPACE), *manifests(Role.APPROVER, NAMESPACE)]
    kinds = {each["kind"] for each in expected}
    given = [each for each in objects if each["kind"] in kinds and "-hooks" not in each["metadata"]["name"]]
    for each in given:
        del each["metadata"]["labels"]
    assert sorted(given, key=json.dumps) == sorted(expected, key=json.dumps)
    accounts = {each["metadata"]["name"] for each in of_kind(objects, "ServiceAccount")}
    assert {role.value for role in Role} <= accounts


def test_without_an_approver_nobody_has_its_rights():
    names = {each["metadata"]["name"] for each in rendered(*SETS["mesh"])}
    assert not [name for name in names if "approver" in name]


# --- the daemon


def test_the_daemon_takes_its_configuration(objects, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(_configuration(objects)["config.yaml"])
    assert main(["config", "check", str(tmp_path / "config.yaml")]) == 0
    assert "no effect" not in capsys.readouterr().err


def test_a_wrong_configuration_would_be_noticed(tmp_path):
    (tmp_path / "config.yaml").write_text("mesh: {mode: wireguard}\n")
    assert main(["config", "check", str(tmp_path / "config.yaml")]) == 1


def test_every_value_of_config_reaches_the_daemon():
    stored = yaml.safe_load((STORED / "values-0.1.0.yaml").read_text())["config"]
    given = yaml.safe_load(_configuration(rendered(*SETS["stored by 0.1.0"]))["config.yaml"])
    del stored["ipam"], stored["headscale"]  # of the network configuration; of keys and files
    del given["headscale"], given["cni"]["template"]
    stored["tailscale"]["socket"] = "/host" + stored["tailscale"]["socket"]
    assert given == stored


def test_the_daemon_follows_the_network_configuration_that_is_mounted(objects):
    """As a directory: a single key, mounted with subPath, would never be renewed."""
    config = yaml.safe_load(_configuration(objects)["config.yaml"])
    spec = _daemon(objects)
    (mount,) = [each for each in spec["containers"][0]["volumeMounts"] if each["name"] == "configuration"]
    (volume,) = [each for each in spec["volumes"] if each["name"] == "configuration"]
    assert volume["configMap"] == {"name": "headcni"}
    assert "subPath" not in mount
    assert config["cni"]["template"] == f"{mount['mountPath']}/conflist"


def test_the_daemon_takes_its_network_configuration(objects):
    config = yaml.safe_load(_configuration(objects)["config.yaml"])
    content = _configuration(objects)["conflist"].encode()
    assert template.check(Path("conflist"), content, Path(config["stateDir"])) == content


def test_the_arguments_are_known(objects):
    """The parser ends the program at what it does not know."""
    from reconciler.operate.cli import build_parser

    specs = templates(objects)
    specs |= {"leaving": templates([leaving(objects)])["DaemonSet/headcni"]} if _leaves(objects) else {}
    commands = [each["args"] for spec in specs.values() for each in containers(spec) if "args" in each]
    assert len(commands) >= 2
    for args in commands:
        build_parser().parse_args(args)


def test_files_that_are_named_are_mounted(objects):
    """A path below /etc/headcni or of a key leads to something that the pod has."""
    config = _configuration(objects)
    named_files = re.findall(r"/etc/headcni/([\w.-]+)", json.dumps(objects))
    assert set(named_files) <= FILES
    assert all(name in config for name in named_files)
    for spec in templates(objects).values():
        keys = {
            item["path"] for volume in spec.get("volumes", []) for item in volume.get("secret", {}).get("items", [])
        }
        asked = set(re.findall(r"/run/headcni/keys/([\w-]+)", json.dumps(spec)))
        assert asked <= keys
    settings = set(re.findall(r"/run/headcni/keys/([\w-]+)", config["config.yaml"]))
    daemon = json.dumps(_daemon(objects))
    assert all(f'"key": "{key}"' in daemon for key in settings)


@pytest.mark.parametrize(
    ("address", "asked"), [("127.0.0.1", "127.0.0.1"), ("::", "127.0.0.1"), ("192.0.2.9", "192.0.2.9")]
)
def test_probes_ask_where_the_daemon_listens(address, asked):
    objects = rendered("--set", f"config.metrics.address={address},config.metrics.port=9471")
    listens = yaml.safe_load(_configuration(objects)["config.yaml"])["metrics"]
    daemon = _daemon(objects)["containers"][0]
    probes = {name: daemon[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert all(each["port"] == listens["port"] == 9471 and each["host"] == asked for each in probes.values())
    assert [each["path"] for each in probes.values()] == ["/healthz", "/healthz", "/readyz"]
    assert all(daemon[name]["periodSeconds"] >= 5 and daemon[name]["timeoutSeconds"] == 5 for name in probes)


def test_a_mount_has_its_volume_and_a_volume_its_mount(objects):
    specs = [
        *templates(objects).values(),
        *([leaving(objects)["spec"]["template"]["spec"]] if _leaves(objects) else []),
    ]
    for spec in specs:
        volumes = {each["name"] for each in spec.get("volumes", [])}
        mounts = {each["name"] for container in containers(spec) for each in container.get("volumeMounts", [])}
        assert mounts == volumes


# --- what it may


def test_the_daemon_has_the_least_rights_that_were_measured():
    spec = _daemon(rendered())
    daemon, install = spec["containers"][0]["securityContext"], spec["initContainers"][0]["securityContext"]
    assert daemon["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "SYS_ADMIN"]}
    assert install["capabilities"] == {"drop": ["ALL"], "add": []}
    assert spec["securityContext"]["runAsUser"] == 0
    assert spec["hostNetwork"] is True
    assert "hostPID" not in spec


def test_nothing_is_privileged_and_every_root_is_read_only(objects):
    for name, spec in templates(objects).items():
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for each in containers(spec):
            context = each["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert "ALL" in context["capabilities"]["drop"]
            assert "privileged" not in context
        if name != "DaemonSet/headcni":
            assert spec["securityContext"]["runAsNonRoot"] is True


def test_only_known_directories_of_the_host_can_be_written():
    spec = _daemon(rendered(*SETS["mesh"]))
    host = {each["name"]: each["hostPath"]["path"] for each in spec["volumes"] if "hostPath" in each}
    writable = {
        host[each["name"]]
        for container in containers(spec)
        for each in container["volumeMounts"]
        if each["name"] in host and not each.get("readOnly")
    }
    assert writable == {"/var/lib/headcni", "/opt/cni/bin", "/etc/cni/net.d", "/var/run/netns", "/proc/sys/net"}
    assert host.keys() - {"state", "cni-bin", "cni-conf", "netns", "sysctls"} == {
        "tailscale",
        "node-file-0",
        "node-file-1",
    }


def test_pods_namespaces_appear_in_the_daemon():
    mounts = {each["mountPath"]: each for each in _daemon(rendered())["containers"][0]["volumeMounts"]}
    assert mounts["/var/run/netns"]["mountPropagation"] == "HostToContainer"


def test_the_daemon_sees_a_socket_that_is_made_anew():
    """Its directory goes with tailscaled, so the one above is mounted."""
    spec = _daemon(rendered("--set", f"{MESH},config.tailscale.socket=/run/tailscale/tailscaled.sock"))
    volume = {each["name"]: each for each in spec["volumes"]}["tailscale"]
    mount = {each["name"]: each for each in spec["containers"][0]["volumeMounts"]}["tailscale"]
    assert (volume["hostPath"]["path"], mount["mountPath"], mount["mountPropagation"]) == (
        *("/run", "/host/run"),
        "HostToContainer",
    )


@pytest.mark.parametrize(
    ("values", "reached"), [(MESH, True), ("config.mesh.mode=none", True), ("config.mesh.mode=", False)]
)
def test_tailscaled_is_reached_where_there_is_or_was_a_mesh(values, reached):
    names = {each["name"] for each in _daemon(rendered("--set", values))["volumes"]}
    assert ("tailscale" in names) is reached


@pytest.mark.parametrize("mode", ["none", "tailscale"])
def test_a_mesh_that_is_given_up_is_left_by_the_socket_that_is_mounted(mode):
    socket = "/srv/run/tailscale/tailscaled.sock"
    objects = rendered("--set", f"config.mesh.mode={mode},config.tailscale.socket={socket},uninstall.hook=always")
    told = yaml.safe_load(_configuration(objects)["config.yaml"])["tailscale"]["socket"]
    leave = leaving(objects)["spec"]["template"]["spec"]["initContainers"][0]
    assert leave["args"] == ["uninstall", f"--tailscale-socket={told}"]
    for each in (_daemon(objects)["containers"][0], leave):
        mounted = {mount["name"]: mount["mountPath"] for mount in each["volumeMounts"]}["tailscale"]
        assert told == f"/host{socket}"
        assert told.startswith(f"{mounted}/")


def test_no_name_server_of_the_cluster_is_needed_to_start(objects):
    for name in KIND_OF.values():
        if (spec := templates(objects).get(name)) is not None:
            assert (spec["hostNetwork"], spec["dnsPolicy"], spec["enableServiceLinks"]) == (True, "Default", False)


def test_the_daemon_goes_to_every_node():
    spec = _daemon(rendered())
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["priorityClassName"] == "system-node-critical"


# --- secrets


def test_keys_are_in_a_secret_and_nowhere_else(objects):
    kept = [each for each in objects if each["kind"] != "Secret"]
    text = json.dumps(kept)
    for key in (AUTH, API, "auth-key-for-nobody", "api-key-for-nobody"):
        assert key not in text
        assert base64.b64encode(key.encode()).decode() not in text
    assert "secretKeyRef" not in text
    assert "HEADCNI_AUTH_KEY" not in text
    assert "HEADCNI_API_KEY" not in text


def test_the_secret_holds_them():
    (secret,) = of_kind(rendered(*SETS["approver"]), "Secret")
    assert {name: base64.b64decode(value).decode() for name, value in secret["data"].items()} == {
        "auth-key": AUTH,
        "api-key": API,
    }


@pytest.mark.parametrize(
    ("values", "daemon", "approver"),
    [
        ("mesh", {"auth-key"}, None),
        ("approver", {"auth-key"}, {"api-key"}),
        ("key on each node", {"auth-key", "api-key"}, None),
    ],
)
def test_each_gets_the_key_that_it_needs(values, daemon, approver):
    specs = templates(rendered(*SETS[values]))
    for name, wanted in (("daemon", daemon), ("approver", approver)):
        spec = specs.get(KIND_OF[name], {})
        found = {
            item["key"] for volume in spec.get("volumes", []) for item in volume.get("secret", {}).get("items", [])
        }
        assert found == (wanted or set())


def test_a_missing_secret_keeps_no_daemon_from_starting():
    secrets = [each["secret"] for each in _daemon(rendered(*SETS["existing secret"]))["volumes"] if "secret" in each]
    assert [(each["secretName"], each["optional"]) for each in secrets] == [("keys", True)]


# --- names, versions, other releases


def test_two_releases_share_no_object():
    def names(release):
        objects = rendered(*SETS["everything"], release=release)
        return {(each["kind"], each["metadata"]["name"]) for each in objects}

    assert names("headcni").isdisjoint(names("second"))


def test_selectors_never_change():
    """What is installed cannot be upgraded otherwise."""
    objects = rendered(*SETS["approver"])
    for component, name in KIND_OF.items():
        kind, _, name = name.partition("/")
        selector = named(objects, kind, name)["spec"]["selector"]["matchLabels"]
        assert selector == {
            "app.kubernetes.io/name": "headcni",
            "app.kubernetes.io/instance": "headcni",
            "app.kubernetes.io/component": component,
        }


def test_a_changed_configuration_makes_new_pods_and_a_changed_key_does_not():
    def template_of(values):
        return named(rendered("--set", values), "DaemonSet", "headcni")["spec"]["template"]

    assert template_of(MESH) != template_of(f"{MESH},config.logLevel=debug")
    assert template_of(MESH) != template_of(f"{MESH},conflist.name=other")
    assert template_of(MESH) == template_of(MESH.replace(AUTH, "RENEWED"))


@pytest.mark.parametrize("file", sorted(STORED.glob("values-*.yaml")), ids=lambda file: file.stem)
def test_values_of_an_earlier_chart_are_still_taken(file):
    assert rendered("--values", str(file))
    assert yaml.safe_load(file.read_text()).keys() == yaml.safe_load((CHART / "values.yaml").read_text()).keys()


def test_the_image_is_named_by_digest_where_there_is_one():
    digest = "sha256:" + "a" * 64
    values = f"image.repository=registry.example.com/headcni,image.tag=v9,image.digest={digest}"
    for spec in templates(rendered("--set", values)).values():
        assert {each["image"] for each in containers(spec)} == {f"registry.example.com/headcni@{digest}"}


# --- bad input


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("config.network.mtu=100", "/config/network/mtu"),
        ("config.kube.kubeconfig=/x", "at '/config/kube': additional properties 'kubeconfig' not allowed"),
        ("headscale.url=https://x", "additional properties 'headscale' not allowed"),
        ("config.mesh.approval=nobody", "at '/config/mesh/approval': value must be one of"),
        ("config.headscale.authKey=5", "at '/config/headscale/authKey': got number, want string"),
        (
            "config.headscale.existingSecret=keys,config.headscale.authKey=x",
            "config.headscale.existingSecret: give either",
        ),
        ("config.mesh.mode=tailscale,config.mesh.approval=key", "config.headscale.url: is empty"),
        (f"config.mesh.approval=approver,{MESH}", "config.headscale.apiKey: mesh.approval approver needs it"),
        ("serviceMonitor.enabled=true", "serviceMonitor.enabled: nobody can reach metrics on loopback"),
        ("serviceAccount.create=false", "serviceAccount.name: is empty"),
        ("config.headscale.authKey=two words", "config.headscale.authKey: holds blanks"),
    ],
)
def test_a_wrong_value_is_named(given, said):
    assert said in refusal("--set", given)


def test_all_contradictions_are_told_at_once():
    said = refusal("--set", "config.mesh.mode=tailscale,config.mesh.approval=key,serviceMonitor.enabled=true")
    assert said.count("\n- ") == 3


def test_a_refused_key_is_not_shown():
    assert "SECRET" not in refusal("--set", "config.headscale.authKey=SECRET WORDS")


# --- leaving


def test_the_hook_is_left_out_where_helm_talks_to_no_cluster():
    """Who pipes `helm template` into kubectl would run it."""
    assert not _leaves(rendered())
    assert not of_kind(rendered(), "Job")
    assert of_kind(rendered("--set", "uninstall.hook=always"), "Job")


def test_the_pods_that_leave_can_undo_what_the_daemon_did():
    objects = rendered(*SETS["everything"])
    daemon, leave = _daemon(objects), leaving(objects)["spec"]["template"]["spec"]
    ours, theirs = daemon["containers"][0], leave["initContainers"][0]
    assert theirs["args"][0] == "uninstall"
    assert theirs["securityContext"] == ours["securityContext"]
    assert theirs["env"] == ours["env"]
    written = {each["mountPath"] for each in ours["volumeMounts"] if not each.get("readOnly")} - {"/tmp"}
    reached = {each["mountPath"] for each in theirs["volumeMounts"] if not each.get("readOnly")}
    assert written - {"/var/lib/headcni"} | {"/var/lib", "/opt/cni/bin"} == reached
    assert leave["tolerations"] == daemon["tolerations"]
    assert leave["nodeSelector"] == daemon["nodeSelector"]


def test_the_pods_that_leave_belong_to_the_same_daemonset():
    objects = rendered(*SETS["everything"])
    selector = named(objects, "DaemonSet", "headcni")["spec"]["selector"]["matchLabels"]
    assert selector.items() <= leaving(objects)["spec"]["template"]["metadata"]["labels"].items()


def test_purge_is_an_argument_and_the_annotation_is_the_operators():
    for value, purges in (("true", True), ("false", False)):
        objects = rendered("--set", f"uninstall.hook=always,uninstall.purge={value}")
        args = leaving(objects)["spec"]["template"]["spec"]["initContainers"][0]["args"]
        assert ("--purge" in args) is purges
        assert "annotations" not in named(objects, "DaemonSet", "headcni")["metadata"]


def test_what_the_hook_sets_helm_has_set_too_and_so_sets_back():
    """Helm leaves alone what none of its manifests ever named."""
    objects = rendered("--set", "uninstall.hook=always")
    own = named(objects, "DaemonSet", "headcni")["spec"]["template"]
    gone = leaving(objects)["spec"]["template"]
    assert gone["metadata"]["labels"].keys() == own["metadata"]["labels"].keys()
    ours, theirs = (each["spec"]["initContainers"][0] for each in (own, gone))
    assert theirs["securityContext"]["capabilities"].keys() == ours["securityContext"]["capabilities"].keys()
    assert theirs["name"] == ours["name"], "lists are merged by name"


# --- plain manifests


def test_the_plain_manifests_are_up_to_date():
    printed = made()
    assert {file: file.read_text() for file in printed} == printed, "run: python -m deploy.manifests"


def test_the_plain_manifests_hold_no_hook():
    assert "helm.sh/hook" not in FILE.read_text()


def test_the_plain_manifests_have_a_way_out():
    objects = [each for each in yaml.load_all(LEAVE.read_text(), yaml.CSafeLoader) if each]
    assert objects[-1]["kind"] == "Job", "it needs all the others"
    pod = leaving([*objects, *yaml.load_all(FILE.read_text(), yaml.CSafeLoader)])["spec"]["template"]["spec"]
    assert pod["initContainers"][0]["args"] == ["uninstall"]


def _configuration(objects):
    return named(objects, "ConfigMap", "headcni")["data"]


def _daemon(objects):
    return templates(objects)["DaemonSet/headcni"]


def _leaves(objects):
    return bool(of_kind(objects, "Job"))
