"""The chart as Helm renders it, and sets of values that between them render everything it has."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from fixtures.peers import find

CHART = Path(__file__).parents[2] / "deploy/chart/headcni"
STORED = Path(__file__).parent / "charts"
NAMESPACE = "kube-system"
AUTH, API = "AUTH-KEY-7f3a", "API-KEY-9b1c"
MESH = f"config.headscale.url=https://headscale.example.com,config.headscale.authKey={AUTH}"
APPROVER = f"{MESH},config.mesh.approval=approver,config.headscale.apiKey={API}"
MONITORED = "serviceMonitor.enabled=true,config.metrics.address=0.0.0.0,prometheusRule.enabled=true"

Objects = list[dict[str, Any]]

SETS: dict[str, tuple[str, ...]] = {
    "defaults": (),
    "mesh": ("--set", MESH),
    "approver": ("--set", APPROVER),
    "key on each node": ("--set", f"{MESH},config.mesh.approval=key,config.headscale.apiKey={API}"),
    "existing secret": (
        *("--set", "config.headscale.existingSecret=keys,config.headscale.url=https://headscale.example.com"),
        *("--set", "config.mesh.approval=approver"),
    ),
    "k3s": ("--set", f"distribution=k3s,{APPROVER}"),
    "rke2": ("--set", "distribution=rke2"),
    "other": ("--set", "distribution=other,config.kube.url=https://192.0.2.1:6443"),
    "dual stack": (
        *("--set-json", 'config.network.podCIDR.base=["10.244.0.0/16","fd42:1::/48"]'),
        *("--set-json", 'config.network.serviceCIDR=["10.96.0.0/16","fd42:2::/112"]', "--set", APPROVER),
    ),
    "another IPAM plugin": ("--set-json", 'config.ipam={"type":"host-local","subnet":"10.244.1.0/24"}'),
    "everything": (
        *("--set", f"{APPROVER},{MONITORED},dashboard.enabled=true,networkPolicy.enabled=true"),
        *("--set", "uninstall.hook=always,uninstall.purge=true"),
        *("--set-json", 'conflist.chained=["portmap","bandwidth"]'),
    ),
    "stored by 0.1.0": ("--values", str(STORED / "values-0.1.0.yaml")),
}


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run((find("helm"), *arguments), capture_output=True, text=True, timeout=60)


def rendered(*arguments: str, release: str = "headcni", kubernetes: str = "1.34.0") -> Objects:
    objects: Objects = json.loads(_rendered(arguments, release, kubernetes))
    return objects


@cache
def _rendered(arguments: tuple[str, ...], release: str, kubernetes: str) -> str:
    where = ("--namespace", NAMESPACE, "--kube-version", kubernetes)
    done = helm("template", release, str(CHART), *where, *arguments)
    assert done.returncode == 0, done.stderr
    return json.dumps([each for each in yaml.load_all(done.stdout, yaml.CSafeLoader) if each])


def refusal(*arguments: str) -> str:
    done = helm("template", "headcni", str(CHART), "--namespace", NAMESPACE, *arguments)
    assert done.returncode != 0
    return done.stderr


def of_kind(objects: Objects, kind: str) -> Objects:
    return [each for each in objects if each["kind"] == kind]


def named(objects: Objects, kind: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in of_kind(objects, kind) if each["metadata"]["name"] == name]
    return found


def leaving(objects: Objects) -> dict[str, Any]:
    """The DaemonSet as the hook of `helm uninstall` makes it."""
    scripts = [each["data"]["leaving.json"] for each in of_kind(objects, "ConfigMap") if "leaving.json" in each["data"]]
    daemonset = json.loads(json.dumps(of_kind(objects, "DaemonSet")[0]))
    daemonset["spec"]["template"] = json.loads(scripts[0])
    return daemonset


def templates(objects: Objects) -> dict[str, dict[str, Any]]:
    """Every pod's spec, by kind and name of what makes it."""
    found = {}
    for each in objects:
        name = f"{each['kind']}/{each['metadata']['name']}"
        if each["kind"] == "Pod":
            found[name] = each["spec"]
        elif "template" in each.get("spec", {}):
            found[name] = each["spec"]["template"]["spec"]
    return found


def containers(spec: dict[str, Any]) -> Iterable[dict[str, Any]]:
    return [*spec.get("initContainers", []), *spec["containers"]]
