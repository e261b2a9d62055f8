"""`deploy/deploy-with-helm.sh`: what it asks before it acts, what it does, what it says. deploying.py runs it."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from deploying import LEAVE, MERGE, ROOT, SCRIPT, Script, in_cluster, info, told, two_nodes, up, with_daemons

from fixtures.kube.server import KubeServer, of
from fixtures.peers import find
from fixtures.peers.system import need
from fixtures.site import wait_until
from reconciler.kube.node import UP

pytestmark = [pytest.mark.peers, pytest.mark.timeout(120)]

KEY = "AUTH-KEY-7f3a"
URL = "https://headscale.example.com"
NAMESPACE = "default"
DAEMONSETS = f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with KubeServer(tmp_path_factory.mktemp("deploy-script")) as started:
        yield started


@pytest.fixture
def nodes(server):
    with two_nodes(server, "10.244.{}.0/24"):
        yield


@pytest.fixture
def script(server, tmp_path):
    with Script(server, tmp_path) as made:
        yield made


# --- the command line


def test_shellcheck_has_nothing_to_say_of_any_script():
    need("shellcheck")
    scripts = [each for folder in ("deploy", "fixtures", "tests") for each in (ROOT / folder).rglob("*.sh")]
    assert SCRIPT in scripts
    whole = [each.relative_to(ROOT) for each in scripts if each.parent.name != "with-helm"]  # it reads those
    command = ("shellcheck", "-x", ".ci/run", *whole)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_help_names_every_option_and_exit_code(script):
    text = script.says(0, "--help")
    taken = re.findall(r"^ +(-[^ )]*(?: \| --[a-z-]+)?)\) ", SCRIPT.read_text(), re.MULTILINE)
    options = [each for pair in taken for each in pair.split(" | ") if "*" not in each]
    assert len(options) > 15
    assert [each for each in options if not re.search(rf"{re.escape(each)}\b", text)] == []
    assert [each for each in "01234" if f"{each} " not in text.partition("Exit codes:")[2]] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "-u is missing"),
        (("--frobnicate",), "--frobnicate is no option"),
        (("surplus",), "surplus is no option"),
        (("-u",), "-u needs a value"),
        (("--url=",), "--url needs a value"),
        (("-u", "headscale.example.com"), "-u headscale.example.com: is no server's URL"),
        (("-u", "https://headscale.example.com?x=1"), "is no server's URL"),
        (("-u", "http://headscale:8080:9"), "is no server's URL"),
        (("-u", "https://headscale:http"), "is no server's URL"),
        (("-u", "https://fd00::1"), "is no server's URL"),
        (("-u", URL, "--beside=yes"), "--beside takes no value"),
        (("-u", "https://a:PASSWORD@headscale.example.com"), "-u: holds an @"),
        (("-u", URL, "-n", "Kube_System"), "--namespace Kube_System: is no name"),
        (("-u", URL, "--release", "x" * 54), "at most 53"),
        (("-u", URL, "--pod-cidr", "10.244.0.0"), "10.244.0.0 is no CIDR"),
        (("-u", URL, "--pod-cidr", "10.244.0.0/16,fd00::/"), "fd00::/ is no CIDR"),
        (("-u", URL, "--pod-cidr", "10.244.1.0/16"), "10.244.1.0/16 has bits set beyond its prefix length"),
        (("-u", URL, "--service-cidr", "10.96.0.0/33"), "10.96.0.0/33 is no CIDR"),
        (("-u", URL, "--per-node", "/31"), "--per-node /31: is no prefix length"),
        (("-u", URL, "--distribution", "talos"), "--distribution talos: is unknown"),
        (("-u", URL, "--wait", "soon"), "--wait soon: is no number of seconds"),
        (("-u", URL, "-f", "gone.yaml"), "-f gone.yaml: is not there"),
        (("-u", URL, "--set", "config.logLevel"), "--set config.logLevel: is not KEY=VALUE"),
        (("-u", URL, "--set", "a=b,config.headscale.authKey=SECRET"), "a key would stand in the process list"),
        (("-u", URL, "-K", "gone"), "-K gone: is not there"),
        (("-u", URL, "-K", "/dev/null"), "-K /dev/null: is empty"),
        (("-u", URL, "-k", "a b"), "the key holds blanks"),
        (("-u", URL, "-k", "a", "-K", "b"), "both -k and -K are given"),
        (("--purge",), "--purge without --uninstall"),
        (("--uninstall", "--dry-run"), "--dry-run with --uninstall"),
    ],
)
def test_a_wrong_command_line_is_told_with_its_cure_before_anybody_is_asked(script, arguments, words):
    for each in ("kubectl", "helm"):
        script.replace(each, "echo was called >&2")
    said = script.says(2, *arguments)
    assert words in said
    assert "  cure: " in said
    assert "was called" not in said
    assert "PASSWORD" not in said
    assert "SECRET" not in said


# --- dry run


def test_a_dry_run_prints_manifests_without_the_key_and_changes_nothing(server, nodes, script):
    before = in_cluster(server)
    code, out, err = script.run("-u", URL, "-k", KEY, "--pod-cidr", "10.244.0.0/16,fd42::/48", "--dry-run")
    assert code == 0, err
    assert in_cluster(server) == before
    objects = {each["kind"]: each for each in yaml.safe_load_all(out) if each}
    assert {"DaemonSet", "ConfigMap", "Secret", "ServiceAccount"} <= set(objects)
    assert "Job" not in objects, "whoever applies this must not run the hook"
    assert objects["Secret"]["data"] == {"auth-key": "(not shown)"}
    assert KEY not in out + err
    assert base64.b64encode(KEY.encode()).decode() not in out + err
    config = yaml.safe_load(objects["ConfigMap"]["data"]["config.yaml"])
    assert config["network"]["podCIDR"]["base"] == ["10.244.0.0/16", "fd42::/48"]
    assert config["headscale"]["url"] == URL
    assert "pods 10.244.0.0/16,fd42::/48" in err


def test_what_options_say_wins_over_files_and_values_over_both(nodes, script):
    file = script.folder / "more.yaml"
    file.write_text("config: {logLevel: warning, network: {podCIDR: {base: 10.99.0.0/16}, serviceCIDR: 10.98.0.0/16}}")
    options = ("-f", str(file), "--pod-cidr", "10.244.0.0/16", "--per-node", "24", "--distribution", "kubeadm")
    _, out, _ = script.run("-u", URL, *options, "--set", "config.metrics.port=9100", "--dry-run")
    (config,) = [each["data"]["config.yaml"] for each in yaml.safe_load_all(out) if each["kind"] == "ConfigMap"]
    config = yaml.safe_load(config)
    assert (config["logLevel"], config["metrics"]["port"]) == ("warning", 9100)
    assert config["network"]["podCIDR"] == {"base": "10.244.0.0/16", "perNode": "/24"}
    assert config["network"]["serviceCIDR"] == "10.98.0.0/16"


# --- install, again, uninstall


@pytest.fixture
def cluster(server, nodes, tmp_path):
    with with_daemons(server, NAMESPACE, tmp_path) as kubelets:
        yield kubelets


def test_install_then_again_then_uninstall_then_again(server, cluster, script):
    def tell():
        wait_until(lambda: len(server.call("GET", cluster.pods)["items"]) == 2, 60, lambda: "no daemons")
        for name in ("a", "b"):
            up(server, name)

    telling = threading.Thread(target=tell)
    telling.start()
    before = in_cluster(server)
    said = script.says(0, "-u", URL, "-n", NAMESPACE, "-K", "-", given=KEY + "\n")
    telling.join()
    assert "waiting for" in said
    assert re.search(rf"^a +True +{UP} +in force$", said, re.MULTILINE)
    assert re.search(rf"^b +True +{UP} +in force$", said, re.MULTILINE)

    again = script.says(0, "-u", URL, "-n", NAMESPACE, "--set", "config.logLevel=debug")
    assert "unless an earlier run brought one" in again
    assert script.helm("get", "values", "headcni", "-n", NAMESPACE).count(KEY) == 1, "what is not named stays"
    assert "debug" in server.call("GET", f"/api/v1/namespaces/{NAMESPACE}/configmaps/headcni")["data"]["config.yaml"]

    assert "every node is put back" in script.says(0, "--uninstall", "-n", NAMESPACE)
    assert cluster.commands == [LEAVE] * 2
    assert in_cluster(server) == before
    assert "nothing to do" in script.says(0, "--uninstall", "-n", NAMESPACE)


def test_pods_that_are_left_stop_the_removal_and_purge_is_the_word(server, cluster, script):
    script.says(0, "-u", URL, "-n", NAMESPACE, "--wait", "0")
    cluster.refusing["a"] = "3 pods still have their network from HeadCNI"
    said = script.says(3, "--uninstall", "-n", NAMESPACE)
    assert "--purge cuts them off" in said
    assert server.call("GET", f"{DAEMONSETS}/headcni")
    cluster.refusing.clear()
    cluster.commands.clear()

    script.replace("helm", '[[ $1 != uninstall ]] || { echo "Helm is ill" >&2; exit 1; }; exec "$REAL" "$@"')
    assert "Helm is ill" in script.says(3, "--uninstall", "--purge", "-n", NAMESPACE)
    kept = server.call("GET", f"{DAEMONSETS}/headcni")["metadata"]["annotations"]
    assert "headcni.io/purge" not in kept, "the next one without --purge would cut pods off"
    (script.bin / "helm").unlink()
    (script.bin / "helm").symlink_to(find("helm"))

    script.says(0, "--uninstall", "--purge", "-n", NAMESPACE)
    assert cluster.commands == [[*LEAVE, "--purge"]] * 2


def test_nodes_that_are_late_are_shown_and_told_apart_by_the_exit_code(server, nodes, script):
    up(server, "a")
    waiting = {"type": "NetworkUnavailable", "status": "True", "reason": "HeadCNIIsNotReady", "message": "x"}
    told(server, "b", conditions=[{"type": "Ready", "status": "False", "reason": "x", "message": "x"}, waiting])
    said = script.says(4, "-u", URL, "--wait", "1")
    assert re.search(rf"^a +True +{UP} +in force$", said, re.MULTILINE)
    assert re.search(r"^b +False +True HeadCNIIsNotReady +-$", said, re.MULTILINE)
    assert "not every node was ready within 1 s" in said
    assert "headcni doctor" in said


def test_a_node_that_the_mesh_keeps_out_is_late_too(server, cluster, script):
    up(server, "a")
    up(server, "b", "not in force: the key is refused")
    script.says(0, "-u", URL, "-n", NAMESPACE, "--wait", "0")
    wait_until(lambda: server.call("GET", f"{DAEMONSETS}/headcni")["status"].get("numberAvailable") == 2, 60)
    said = script.says(4, "-u", URL, "-n", NAMESPACE, "--wait", "15")
    assert "or not in the mesh: 1" in said
    assert re.search(rf"^b +True +{UP} +not in force: the key is refused$", said, re.MULTILINE)


def test_an_api_server_that_is_away_while_one_waits_is_no_success(server, nodes, script):
    for name in ("a", "b"):
        up(server, name)
    script.replace("kubectl", 'case $* in "get daemonset "*) echo away >&2; exit 1;; *) exec "$REAL" "$@";; esac')
    assert "waiting for the API server" in script.says(4, "-u", URL, "--wait", "1")


def test_a_namespace_of_its_own_is_made_and_a_second_release_is_refused(server, nodes, script):
    script.says(0, "-u", URL, "-n", "network", "--release", "net", "--wait", "0")
    assert server.call("GET", "/apis/apps/v1/namespaces/network/daemonsets/net-headcni")
    before = in_cluster(server)
    said = " ".join(script.says(1, "-u", URL, "--wait", "0").split())
    assert "the cluster already has HeadCNI: DaemonSet net-headcni in namespace network" in said
    assert "error: nothing was changed" in said
    assert "HeadCNI is here: -n network --release net\n" in script.says(0, "--uninstall")
    assert in_cluster(server) == before


def test_after_an_operation_that_was_cut_off_its_cure_is_told_and_works(server, nodes, script):
    """Helm notes what it begins, and refuses to begin anything else."""
    script.says(0, "-u", URL, "-n", NAMESPACE, "--wait", "0")
    secrets = f"/api/v1/namespaces/{NAMESPACE}/secrets"
    record = server.call("GET", f"{secrets}/sh.helm.release.v1.headcni.v1")
    release = json.loads(gzip.decompress(base64.b64decode(base64.b64decode(record["data"]["release"]))))
    release["version"], release["info"]["status"] = 2, "pending-upgrade"
    body = base64.b64encode(base64.b64encode(gzip.compress(json.dumps(release).encode()))).decode()
    labels = {**record["metadata"]["labels"], "status": "pending-upgrade", "version": "2"}
    meta = {"name": "sh.helm.release.v1.headcni.v2", "labels": labels}
    server.call("POST", secrets, {"metadata": meta, "type": record["type"], "data": {"release": body}})

    said = script.says(1, "-u", URL, "-n", NAMESPACE, "--wait", "0")
    (cure,) = re.findall(r"if no other Helm runs: (kubectl .*), and run this again", said)
    subprocess.run(cure, shell=True, env=script.environment, check=True, capture_output=True)
    script.says(0, "-u", URL, "-n", NAMESPACE, "--wait", "0")


def test_a_helm_that_sees_nothing_is_not_a_cluster_without_a_release(nodes, script):
    script.replace("helm", '[[ $1 != list ]] || { echo "secrets is forbidden" >&2; exit 1; }; exec "$REAL" "$@"')
    said = script.says(1, "--uninstall")
    assert "Helm cannot say what is installed in namespace kube-system: secrets is forbidden" in said
    assert "nothing to do" not in said


# --- a cluster that is not as it must be


def test_all_that_is_wrong_with_nodes_is_told_at_once_and_nothing_is_changed(server, nodes, script):
    told(server, "a", nodeInfo=info(kernel="4.18.0-553.el8_10.x86_64"))
    server.call("POST", DAEMONSETS, daemonset("kube-flannel-ds"))
    label = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    server.call("PATCH", f"/api/v1/namespaces/{NAMESPACE}", label, MERGE)
    before = in_cluster(server)
    try:
        said = script.says(1, "-u", URL, "-n", NAMESPACE)
        beside = script.says(1, "-u", URL, "-n", NAMESPACE, "--beside")
    finally:
        server.call("DELETE", f"{DAEMONSETS}/kube-flannel-ds")
        none = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": None}}}
        server.call("PATCH", f"/api/v1/namespaces/{NAMESPACE}", none, MERGE)
    assert "the node a runs Linux 4.18.0-553.el8_10.x86_64" in said
    assert "another network plugin: DaemonSet default/kube-flannel-ds" in said
    assert "docs/migrate-flannel.md" in said
    assert "lets in only pods that keep to restricted" in said
    assert said.count("  NO    ") == 3
    assert beside.count("  NO    ") == 2
    assert before == in_cluster(server) | {("/apis/apps/v1/daemonsets", "kube-flannel-ds")}


def daemonset(name):
    labels = {"app": "flannel"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "x", "image": "x"}]}}
    return {"metadata": {"name": name}, "spec": {"selector": {"matchLabels": labels}, "template": template}}


def test_beside_another_plugin_nodes_must_not_be_told_to_keep_packets_inside(server, nodes, script):
    server.call("POST", DAEMONSETS, daemonset("kube-flannel-ds"))
    try:
        said = script.says(1, "-u", URL, "--beside")
        script.says(0, "-u", URL, "--beside", "--set", "config.mesh.failClosed=false", "--dry-run")
    finally:
        server.call("DELETE", f"{DAEMONSETS}/kube-flannel-ds")
    assert "say --set config.mesh.failClosed=false until it is gone" in said


def test_a_nodes_windows_and_leases_of_k3s_are_only_noted(server, nodes, script):
    told(server, "a", nodeInfo=info(kernel="10.0.17763", system="windows"))
    lease = {"metadata": {"annotations": {"flannel.alpha.coreos.com/backend-type": "vxlan"}}}
    server.call("PATCH", "/api/v1/nodes/b", lease, MERGE)
    said = script.says(0, "-u", URL, "--dry-run")
    assert "the node a runs Windows" in said
    assert "nodes have leases of Flannel" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--pod-cidr", "10.96.0.0/12", "--service-cidr", "10.96.0.0/16"), "pods (10.96.0.0/12) and Services"),
        (("--pod-cidr", "100.64.0.0/11"), "pods (100.64.0.0/11) overlap 100.64.0.0/10"),
        (("--pod-cidr", "10.244.0.0/16,fd7a:115c:a1e0:9::/64"), "overlap fd7a:115c:a1e0::/48"),
        (
            ("--pod-cidr", "10.42.0.0/16"),
            "the node a has the pod CIDR 10.244.1.0/24, outside of the pods' 10.42.0.0/16",
        ),
        (("--distribution", "k3s"), "outside of the pods' 10.42.0.0/16"),
        (("--service-cidr", "192.0.2.0/24"), "the node b has the address 192.0.2.12, inside of 192.0.2.0/24"),
        (("--set", "config.network.serviceCIDR=10.244.0.0/20"), "and Services (10.244.0.0/20) overlap"),
        (("--set", "config.nonsense=1"), "'nonsense' not allowed"),
        (("--set", "config.headscale.existingSecret=x", "-k", KEY), "give either a Secret or the keys, not both"),
    ],
)
def test_ranges_and_values_that_cannot_be_are_told(server, nodes, script, options, words):
    before = in_cluster(server)
    said = script.says(1, "-u", URL, *options)
    assert words in " ".join(said.split())
    assert "error: nothing was changed" in said
    assert KEY not in said
    assert in_cluster(server) == before


def test_without_a_mesh_its_addresses_are_nobodys(nodes, script):
    said = script.says(1, "--set", "config.mesh.mode=none", "--pod-cidr", "100.64.0.0/11")
    assert "the addresses of the mesh" not in said


# --- tools and rights


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("helm", "echo v3.7.2", "helm is v3.7.2"),
        ("helm", "exit 1", "helm is of an unknown version"),
        (
            "kubectl",
            'case $* in *version*) echo \'{"gitVersion": "v1.19.16"}\';; *) exec "$REAL" "$@";; esac',
            "v1.19.16",
        ),
        ("kubectl", "echo 'connection refused' >&2; exit 1", "does not answer: connection refused"),
    ],
)
def test_tools_and_servers_that_are_too_old_or_not_there_are_told(nodes, script, name, text, words):
    script.replace(name, text)
    said = script.says(1, "-u", URL)
    assert words in said
    assert "nothing was changed" in said


def test_an_older_helm_is_not_asked_for_what_it_does_not_know(nodes, script):
    """It is the real one; only its version is another."""
    older = 'printf "%s\\n" "$@" >> "$HOME/arguments"; [[ $1 == version ]] && echo v3.8.2 || exec "$REAL" "$@"'
    script.replace("helm", older)
    for _ in range(2):
        script.says(0, "-u", URL, "-k", KEY, "--wait", "0")
    given = (script.folder / "arguments").read_text().split()
    assert given.count("--reuse-values") == 2, "to look, and to install"
    assert [each for each in given if each.startswith(("--reset-then", "--dry-run="))] == []


@pytest.mark.parametrize("missing", ["helm", "kubectl"])
def test_a_tool_that_is_missing_is_named(script, missing):
    for each in ("bash", "mktemp", "rm", "cat", "cut", "head", "dirname", "sed", "awk", "grep"):
        (script.bin / each).symlink_to(shutil.which(each))
    (script.bin / "kubectl").symlink_to(shutil.which("kubectl"))
    (script.bin / missing).unlink()
    said = script.says(1, "-u", URL, PATH=str(script.bin))
    assert f"{missing} is missing" in said


def test_rights_that_are_missing_are_named(server, nodes, script):
    user = server.kubeconfig("somebody", of(server.user("somebody")))
    server.grant("somebody", ["list"], ["nodes"])
    said = script.says(1, "-u", URL, KUBECONFIG=str(user))
    (line,) = [line for line in said.splitlines() if "this account may not" in line]
    assert "create daemonsets,create configmaps,create secrets" in line
    assert "list nodes" not in line
    assert "other network plugins were not looked for" in said


# --- the key


SPY = """
printf '%s\\n' "$@" >> "$HOME/arguments"
env >> "$HOME/environment"
for each in "$@"; do
  case $each in */values.yaml) stat -c '%a' "$each" "${each%/*}" >> "$HOME/modes"; cat "$each" >> "$HOME/values";; esac
done
exec "$REAL" "$@"
"""


@pytest.mark.parametrize("way", ["-k", "-K", "environment"])
def test_the_key_is_in_no_argument_and_no_environment_of_others(nodes, script, way):
    for each in ("helm", "kubectl"):
        script.replace(each, SPY)
    (script.folder / "key").write_text(KEY)
    options = {"-k": ("-k", KEY), "-K": ("-K", "key"), "environment": ()}[way]
    given = {"HEADCNI_AUTH_KEY": KEY} if way == "environment" else {}
    said = script.says(0, "-u", URL, *options, "--wait", "0", **given)
    seen = {name: (script.folder / name).read_text() for name in ("arguments", "environment", "modes", "values")}
    assert KEY in seen["values"]
    assert set(seen["modes"].split()) == {"600", "700"}
    assert KEY not in seen["arguments"] + seen["environment"] + said


def test_a_key_is_a_key_in_every_locale(nodes, script, tmp_path):
    """In most, letters do not lie between ! and ~."""
    where = tmp_path / "locales"
    where.mkdir()
    made = ("localedef", "--no-archive", "--inputfile=en_US", "--charmap=UTF-8", where / "en_US.UTF-8")
    subprocess.run(made, check=True, capture_output=True)
    locale = {"LOCPATH": str(where), "LC_ALL": "en_US.UTF-8", "HEADCNI_AUTH_KEY": "hskey-auth-Abc-123"}
    differs = subprocess.run(("bash", "-c", "[[ a =~ [^!-~] ]]"), env={**os.environ, **locale}, check=False)
    assert differs.returncode == 0, "the locale is not there"
    assert "authKey" in script.says(0, "-u", URL, "--dry-run", **locale)


def test_a_key_with_signs_of_yaml_and_shell_arrives_as_it_is(server, nodes, script):
    odd = """a"b\\c'd$e`f{g}[h]#i:j,k&l*m!n|o>p%q@r"""
    script.says(0, "-u", URL, "-k", odd, "--wait", "0")
    secret = server.call("GET", "/api/v1/namespaces/kube-system/secrets/headcni-headscale")["data"]
    assert base64.b64decode(secret["auth-key"]).decode() == odd


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_file_with_the_key(nodes, script, number):
    """It comes while Helm works."""
    script.replace(
        "helm", 'case $* in *upgrade*) echo x > "$HOME/reached"; read -r _ < "$HOME/gate";; *) exec "$REAL" "$@";; esac'
    )
    gate = script.folder / "gate"
    os.mkfifo(gate)
    with script.started("-u", URL, "-k", KEY) as process:
        wait_until((script.folder / "reached").exists, 60, lambda: "helm was not reached")
        (values,) = (script.folder / "temporary").glob("*/values.yaml")
        assert stat.S_IMODE(values.stat().st_mode) == 0o600
        process.send_signal(number)
        gate.write_text("go on\n")
        process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert list((script.folder / "temporary").iterdir()) == []


# --- Headscale


@contextlib.contextmanager
def headscale(status):
    class Health(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Health) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.parametrize(("status", "words"), [(200, "Headscale answers at "), (500, "Headscale does not answer at ")])
def test_headscale_is_asked_and_an_answer_that_does_not_come_is_only_noted(nodes, script, status, words):
    need("curl")
    with headscale(status) as url:
        said = script.says(0, "-u", url, "--dry-run")
    assert words + url in said
    assert "each node would look for Headscale on itself" in said


def test_without_curl_that_is_said(nodes, script):
    """It is looked for in PATH, so everything else stands in another folder."""
    others = {name for folder in os.environ["PATH"].split(":") if Path(folder).is_dir() for name in os.listdir(folder)}
    needed = others & {"bash", "mktemp", "rm", "cat", "cut", "head", "dirname", "sed", "awk", "grep", "tr", "kubectl"}
    for each in needed:
        (script.bin / each).symlink_to(shutil.which(each))
    assert "curl is missing here" in script.says(0, "-u", URL, "--dry-run", PATH=str(script.bin))
