"""The script of Helm's hooks, against a cluster that is a few dictionaries. The real API server: tests/peers."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from reconciler.kube.node import NOT_READY, UP

SCRIPT = Path(__file__).parents[2] / "deploy/chart/headcni/files/cluster.py"
PATH = "/apis/apps/v1/namespaces/kube-system/daemonsets/headcni"
LABELS = {"app": "headcni"}


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("chart_cluster", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PAUSE", 0)
    heard = signal.getsignal(signal.SIGTERM)
    yield module
    signal.signal(signal.SIGTERM, heard)


def daemon_template():
    labels = {**LABELS, "headcni.io/leaving": "false"}
    return {"metadata": {"labels": labels}, "spec": {"initContainers": [{"args": ["install"]}]}}


def leaving_template():
    labels = {**LABELS, "headcni.io/leaving": "true"}
    return {"metadata": {"labels": labels}, "spec": {"initContainers": [{"args": ["uninstall"]}]}}


class Cluster:
    """Nodes with a pod of the DaemonSet each. Every list of pods is one step: old pods end, then new ones begin."""

    def __init__(self, *nodes, refusing=(), silent=(), annotations=None):
        self.refusing, self.silent = dict(refusing), set(silent)
        self.template, self.strategy = daemon_template(), {"type": "RollingUpdate"}
        self.annotations = annotations
        self.generation = 1
        self.pods = {node: self._pod(node) for node in nodes}
        self.told = dict.fromkeys(nodes, ("False", UP))
        self.said = {node: {"headcni.io/mesh": "in force", "headcni.io/version": "1", "other": "x"} for node in nodes}
        self.moved = set()  # nodes whose conditions stand elsewhere by the time that they are patched
        self.patches = []
        self.outages = 0

    def call(self, path, patch=None):
        if self.outages:
            self.outages -= 1
            raise ConnectionRefusedError(111, "Connection refused")
        if patch is not None:
            return self._replace(patch) if path == PATH else self._patch_node(path.split("/")[4:], patch)
        if path == PATH:
            return self._daemonset()
        if path == "/api/v1/nodes":
            return {"items": [self._node(name) for name in self.pods]}
        assert path == "/api/v1/namespaces/kube-system/pods?labelSelector=app%3Dheadcni"
        self._step()
        return {"items": [copy.deepcopy(pod) for pod in self.pods.values()]}

    def _replace(self, patch):
        self.patches.append(patch)
        changed = {each["path"]: copy.deepcopy(each["value"]) for each in patch if each["op"] == "replace"}
        for each in patch:
            if each["op"] == "remove":
                del self.annotations[each["path"].removeprefix("/metadata/annotations/").replace("~1", "/")]
        self.template, self.strategy = changed["/spec/template"], changed["/spec/updateStrategy"]
        self.generation += 1

    def _patch_node(self, path, patch):
        name, *status = path
        if status:
            if name in self.moved:
                self.moved.discard(name)
                raise self.failed("409")
            assert [each["op"] for each in patch] == ["test", "remove"]
            assert {each["path"].removesuffix("/type") for each in patch} == {"/status/conditions/0"}
            self.told[name] = None
        for each in patch if not status else ():
            assert each["op"] == "remove"
            del self.said[name][each["path"].removeprefix("/metadata/annotations/").replace("~1", "/")]

    def _daemonset(self):
        meta = {"namespace": "kube-system", "generation": self.generation}
        meta |= {"annotations": self.annotations} if self.annotations else {}
        spec = {"selector": {"matchLabels": LABELS}, "template": self.template, "updateStrategy": self.strategy}
        status = {"observedGeneration": self.generation, "desiredNumberScheduled": len(self.pods)}
        return copy.deepcopy({"metadata": meta, "spec": spec, "status": status})

    def _node(self, name):
        status, reason = self.told[name] or ("", "")
        network = {"type": "NetworkUnavailable", "status": status, "reason": reason, "message": "as told"}
        ready = {"type": "Ready", "status": "Unknown" if name in self.silent else "False"}
        meta = {"name": name, "annotations": dict(self.said.get(name, {}))}
        return {"metadata": meta, "status": {"conditions": [network, ready] if self.told[name] else [ready]}}

    def _pod(self, node):
        made = copy.deepcopy(self.template)
        return {"metadata": made["metadata"], "spec": made["spec"] | {"nodeName": node}, "status": {}}

    def _step(self):
        for node, pod in self.pods.items():
            if node in self.silent:
                continue
            if pod["spec"] != self.template["spec"] | {"nodeName": node}:
                self.pods[node] = self._pod(node)
            else:
                pod["status"]["initContainerStatuses"] = [self._init(node, pod)]

    def _init(self, node, pod):
        if node not in self.refusing or pod["spec"]["initContainers"][0]["args"] == ["install"]:
            return {"restartCount": 0, "state": {"terminated": {"exitCode": 0}}}
        before = pod["status"].get("initContainerStatuses", [{"restartCount": -1}])[0]
        ended = {"exitCode": 1, "message": self.refusing[node]}
        waits = {"waiting": {"reason": "CrashLoopBackOff"}}
        return {"restartCount": before["restartCount"] + 1, "state": waits, "lastState": {"terminated": ended}}


def test_all_nodes_are_left_at_once_and_the_template_is_not_put_back(script):
    cluster = Cluster("a", "b")
    assert script.leave(cluster.call, PATH, leaving_template(), 5) == "all nodes are left"
    assert cluster.template == leaving_template()
    assert cluster.strategy["rollingUpdate"] == {"maxUnavailable": "100%"}
    assert len(cluster.patches) == 1


def test_what_the_daemons_told_of_their_nodes_is_taken_back(script):
    cluster = Cluster("a", "b", "c", silent={"c"})
    cluster.told["b"] = ("True", "RouteCreated")  # somebody else's word
    script.leave(cluster.call, PATH, leaving_template(), 5)
    assert cluster.said == {"a": {"other": "x"}, "b": {"other": "x"}, "c": cluster.said["c"]}
    assert "headcni.io/mesh" in cluster.said["c"], "its daemon still runs, for all that is known"
    assert cluster.told == {"a": None, "b": ("True", "RouteCreated"), "c": ("False", UP)}


def test_a_node_that_somebody_else_writes_at_the_same_time_is_asked_again(script, capsys):
    cluster = Cluster("a")
    cluster.failed, cluster.moved = script.Failed, {"a"}
    script.leave(cluster.call, PATH, leaving_template(), 5)
    assert (cluster.told, capsys.readouterr().out) == ({"a": None}, "")


def test_what_cannot_be_taken_back_keeps_nobody_from_leaving(script, capsys, monkeypatch):
    monkeypatch.setattr(script, "TAKE_BACK_SECONDS", 0.0)
    cluster = Cluster("a")

    def call(path, patch=None):
        if path.startswith("/api/v1/nodes/"):
            raise script.Failed("403 it may not")
        return cluster.call(path, patch)

    assert script.leave(call, PATH, leaving_template(), 5) == "all nodes are left"
    assert "403 it may not" in capsys.readouterr().out


def test_purge_is_said_by_an_annotation(script):
    cluster = Cluster("a", annotations={"headcni.io/purge": "true"})
    script.leave(cluster.call, PATH, leaving_template(), 5)
    assert cluster.template["spec"]["initContainers"][0]["args"] == ["uninstall", "--purge"]


@pytest.mark.parametrize("annotations", [None, {"headcni.io/purge": "false"}, {"other": "true"}])
def test_without_the_word_nothing_is_purged(script, annotations):
    cluster = Cluster("a", annotations=annotations)
    script.leave(cluster.call, PATH, leaving_template(), 5)
    assert cluster.template["spec"]["initContainers"][0]["args"] == ["uninstall"]


def test_the_word_to_purge_is_for_one_time(script):
    cluster = Cluster("a", refusing={"a": "no"}, annotations={"headcni.io/purge": "true", "other": "x"})
    with pytest.raises(script.Failed):
        script.leave(cluster.call, PATH, leaving_template(), 5)
    assert cluster.annotations == {"other": "x"}
    with pytest.raises(script.Failed):
        script.leave(cluster.call, PATH, leaving_template(), 5)
    assert [each["args"] for each in asked_of(cluster)] == [["uninstall", "--purge"], ["uninstall"]]


def test_the_value_to_purge_is_said_once_and_always(script):
    always = leaving_template()
    always["spec"]["initContainers"][0]["args"].append("--purge")
    cluster = Cluster("a", annotations={"headcni.io/purge": "true"})
    script.leave(cluster.call, PATH, always, 5)
    assert cluster.template["spec"]["initContainers"][0]["args"] == ["uninstall", "--purge"]


def asked_of(cluster):
    """The init container of each template that sent the daemons away."""
    values = [change["value"] for patch in cluster.patches for change in patch if change["path"] == "/spec/template"]
    found = [value["spec"]["initContainers"][0] for value in values]
    return [each for each in found if each["args"][0] == "uninstall"]


def test_a_node_that_cannot_be_left_is_named_and_the_daemons_come_back(script):
    cluster = Cluster("a", "b", refusing={"b": "3 pods still have their network from HeadCNI"})
    with pytest.raises(script.Failed, match=r"cannot be left:\n  b: 3 pods still have .*\nthe daemons are put back"):
        script.leave(cluster.call, PATH, leaving_template(), 5)
    assert cluster.template == daemon_template()
    assert cluster.strategy == {"type": "RollingUpdate"}


def test_one_failure_is_not_yet_a_refusal(script):
    cluster = Cluster("a", refusing={"a": "tailscaled does not answer"})
    asked = iter(range(10))

    def mended(path, patch=None):
        if path.endswith("labelSelector=app%3Dheadcni") and next(asked) == 2:
            cluster.refusing = {}
        return cluster.call(path, patch)

    assert script.leave(mended, PATH, leaving_template(), 5) == "all nodes are left"


def test_a_silent_node_is_named_and_not_waited_for(script):
    cluster = Cluster("a", "b", silent={"b"})
    said = script.leave(cluster.call, PATH, leaving_template(), 5)
    assert said.startswith("all nodes are left; silent")
    assert said.endswith(": b")


def test_who_was_killed_half_way_goes_on_and_puts_nothing_wrong_back(script):
    cluster = Cluster("a", refusing={"a": "no"})
    cluster.template = leaving_template()
    with pytest.raises(script.Failed, match="the daemons are not back: helm rollback"):
        script.leave(cluster.call, PATH, leaving_template(), 5)
    assert cluster.template == leaving_template()
    cluster.refusing = {}
    assert script.leave(cluster.call, PATH, leaving_template(), 5) == "all nodes are left"


def test_a_label_that_stayed_makes_no_daemon_one_that_left(script):
    """Of a run that was killed, where Helm kept what it never had written."""
    cluster = Cluster("a", refusing={"a": "3 pods still have their network from HeadCNI"})
    cluster.template["metadata"]["labels"]["headcni.io/leaving"] = "true"
    cluster.pods["a"] = cluster._pod("a")
    step = cluster._step
    step()  # `install` has ended well
    cluster._step = lambda: setattr(cluster, "_step", step)  # its pod is still seen once
    before = copy.deepcopy(cluster.template)
    with pytest.raises(script.Failed, match=r"a: 3 pods still have .*\nthe daemons are put back"):
        script.leave(cluster.call, PATH, leaving_template(), 5)
    assert cluster.template == before


def test_what_a_pod_said_before_it_was_to_purge_counts_no_more(script):
    """Of a run that was killed: its pods are there until the DaemonSet controller has replaced them."""
    refused = leaving_template() | {"status": {}}
    ended = {"terminated": {"exitCode": 1, "message": "no"}}
    refused["status"]["initContainerStatuses"] = [{"restartCount": 5, "state": ended}]
    assert script._outcome(refused, ["uninstall"]) == (False, "no", 6)
    assert script._outcome(refused, ["uninstall", "--purge"]) == (False, "its former pod is still to end", 0)


def test_daemons_that_somebody_puts_back_meanwhile_are_let_be(script):
    cluster = Cluster("a")
    newer = daemon_template() | {"newer": True}
    cluster._step = lambda: setattr(cluster, "template", newer)
    with pytest.raises(script.Failed, match="somebody put the daemons back meanwhile\nthere was nothing to put back"):
        script.leave(cluster.call, PATH, leaving_template(), 5)
    assert cluster.template == newer


def test_a_job_that_is_deleted_puts_the_daemons_back(script, tmp_path, monkeypatch, capsys):
    cluster = Cluster("a", "b")
    cluster._step = lambda: os.kill(os.getpid(), signal.SIGTERM)
    monkeypatch.setattr(script, "caller", lambda *_: cluster.call)
    (tmp_path / "leaving.json").write_text(json.dumps(leaving_template()))
    arguments = ["leave", "--namespace=kube-system", "--daemonset=headcni", "--seconds=20", "--url=https://x"]
    assert script.main([*arguments, f"--template={tmp_path / 'leaving.json'}"]) == 1
    assert cluster.template == daemon_template()
    assert "was told to end" in (said := capsys.readouterr().err)
    assert "the daemons are put back" in said


def test_an_api_server_that_is_away_when_the_daemons_are_to_come_back_is_waited_for(script):
    cluster = Cluster("a", refusing={"a": "no"})

    outages = [2]

    def call(path, patch=None):
        if patch and patch[0]["value"] == daemon_template() and outages:
            cluster.outages = outages.pop()
        return cluster.call(path, patch)

    with pytest.raises(script.Failed, match="the daemons are put back"):
        script.leave(call, PATH, leaving_template(), 5)
    assert cluster.template == daemon_template()


def test_a_daemonset_that_is_gone_is_nothing_to_leave(script):
    assert "nothing to leave" in script.leave(lambda path, patch=None: None, PATH, leaving_template(), 5)


def test_an_api_server_that_is_away_for_a_moment_is_waited_for(script):
    cluster = Cluster("a")

    def call(path, patch=None):
        answer = cluster.call(path, patch)
        cluster.outages = 2 if patch else cluster.outages
        return answer

    assert script.leave(call, PATH, leaving_template(), 5) == "all nodes are left"


def test_what_is_waited_for_is_said_when_the_time_is_up(script):
    cluster = Cluster("a")
    cluster._step = lambda: None
    with pytest.raises(script.Failed, match=r"(?s)not done after 0 s: \n  a: its former pod is still to end"):
        script.leave(cluster.call, PATH, leaving_template(), 0)
    assert cluster.template == daemon_template()


def test_the_check_is_content_when_each_node_says_that_headcni_is_up(script):
    assert script.check(Cluster("a", "b").call, PATH, 0) == "every node says that HeadCNI is up"


@pytest.mark.parametrize("told", [("True", NOT_READY), ("False", "RouteCreated")])
def test_the_check_names_the_node_that_does_not(script, told):
    cluster = Cluster("a", "b")
    cluster.told["b"] = told
    with pytest.raises(script.Failed, match=rf"\n  b: NetworkUnavailable is {' '.join(told)}: as told"):
        script.check(cluster.call, PATH, 0)


def test_the_check_names_the_node_whose_pods_no_other_node_reaches(script):
    cluster = Cluster("a", "b")
    cluster.said["b"] = {"headcni.io/mesh": "not in force: the key is refused"}
    with pytest.raises(script.Failed, match=r"\n  b: the mesh is not in force: the key is refused$"):
        script.check(cluster.call, PATH, 0)


def test_the_check_asks_only_nodes_that_have_a_daemon(script):
    cluster = Cluster("a")
    cluster.told["stranger"] = ("True", "Whatever")
    nodes = [cluster._node("a"), cluster._node("stranger")]
    assert script.check(lambda path: {"items": nodes} if path == "/api/v1/nodes" else cluster.call(path), PATH, 0)


def test_no_daemon_at_all_is_no_success(script):
    with pytest.raises(script.Failed, match="0 of 0 daemons"):
        script.check(Cluster().call, PATH, 0)


def test_without_an_api_server_the_failure_is_said_in_one_line(script, tmp_path, capsys, monkeypatch):
    (tmp_path / "ca.crt").write_text("")
    (tmp_path / "token").write_text("token")
    # loopback's port 1 refuses; http, for there is no authority to load
    monkeypatch.setattr(script.ssl, "create_default_context", lambda cafile: None)
    arguments = ["check", "--namespace=n", "--daemonset=d", "--seconds=0", "--url=http://127.0.0.1:1"]
    assert script.main([*arguments, f"--account={tmp_path}"]) == 1
    assert "the API server does not answer" in capsys.readouterr().err
