"""What Helm's hooks ask of the API server: `leave` before the chart is deleted, `check` as its test.

Standard library only, so that it runs in any image that has Python, within a tenth of a second. Credentials are the
pod's. What cannot be reached now is asked again until the time is up. Why it goes so: templates/uninstall.yaml.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
LEAVE = "uninstall"  # first of the arguments of the init container: what a pod or a template is told by
PURGE = "headcni.io/purge"
OURS = "headcni.io/"
TOLD = "NetworkUnavailable"
UP, NOT_READY = "HeadCNIIsUp", "HeadCNIIsNotReady"
MESH, NOT_IN_FORCE = "headcni.io/mesh", "not in force"
TRIES = 3  # of `headcni uninstall` on each node, before it counts as refused
PAUSE = 1.0
TAKE_BACK_SECONDS = 5.0
PUT_BACK_SECONDS = 20.0  # a pod that is deleted has 30
NOT_BACK = (
    "the daemons are not back: helm rollback RELEASE REVISION (the last of helm history), or kubectl apply where Helm"
    " is not used, brings them back; or repeat the uninstallation"
)

Json = dict[str, Any]
Call = Callable[..., Any]


class Failed(Exception):
    """With what the operator is to read."""


# --- the API server


def caller(url: str, account: Path = ACCOUNT) -> Call:
    context = ssl.create_default_context(cafile=str(account / "ca.crt"))

    def call(path: str, patch: list[Json] | None = None) -> Any:
        """None: there is no such thing."""
        headers = {"Authorization": f"Bearer {(account / 'token').read_text().strip()}"}
        body = None if patch is None else json.dumps(patch).encode()
        if body:
            headers["Content-Type"] = "application/json-patch+json"
        request = urllib.request.Request(url + path, body, headers, method="PATCH" if body else "GET")
        try:
            with urllib.request.urlopen(request, timeout=10, context=context) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            if error.code >= 500 or error.code == 429:
                raise
            said = error.read().decode("utf-8", "replace")[:500]
            raise Failed(f"the API server refuses {request.method} {path}: {error.code} {said}") from None

    return call


def in_cluster() -> str:
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def until(seconds: float, look: Callable[[], str]) -> None:
    """Until there is nothing left to wait for; what is left then is the failure."""
    give_up = time.monotonic() + seconds
    while True:
        try:
            left = look()
        except OSError as error:  # urllib's errors are such
            left = f"the API server does not answer: {error}"
        if not left:
            return
        if time.monotonic() > give_up:
            raise Failed(f"not done after {seconds:g} s: {left}")
        time.sleep(PAUSE)


def pods_of(call: Call, daemonset: Json) -> list[Json]:
    labels = daemonset["spec"]["selector"]["matchLabels"]
    wanted = urllib.parse.quote(",".join(f"{key}={value}" for key, value in sorted(labels.items())))
    namespace = daemonset["metadata"]["namespace"]
    found: list[Json] = call(f"/api/v1/namespaces/{namespace}/pods?labelSelector={wanted}")["items"]
    return found


def conditions(node: Json, kind: str) -> Json:
    return next((each for each in node["status"].get("conditions", []) if each["type"] == kind), {})


# --- leave


def leave(call: Call, path: str, template: Json, seconds: float) -> str:
    daemonset = call(path)
    if daemonset is None:
        return f"there is no {path}: nothing to leave"
    args = _args(template)
    if _purges(daemonset) and "--purge" not in args:  # it may be the chart's value too
        args.append("--purge")
    try:
        until(seconds, lambda: _send_away(call, path, template))
        until(seconds, lambda: _left(call, path))
    except Failed as failed:
        _hear_no_more()
        raise Failed(f"{failed}\n{_put_back(call, path, daemonset['spec'])}") from None
    _hear_no_more()
    silent = _silent(call)
    _take_back(call, silent)
    named = (
        f"; silent, so run `headcni uninstall` there when they are back: {', '.join(sorted(silent))}" if silent else ""
    )
    return f"all nodes are left{named}"


def _send_away(call: Call, path: str, template: Json) -> str:
    """And the word to purge is taken back: it was for this time, however this ends."""
    at_once = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}}
    forget = [{"op": "remove", "path": f"/metadata/annotations/{_escaped(PURGE)}"}]
    daemonset = call(path)
    call(path, _replaced(template, at_once) + (forget if daemonset and _purges(daemonset) else []))
    return ""


def _put_back(call: Call, path: str, before: Json) -> str:
    """What became of the daemons."""
    said = ""

    def look() -> str:
        nonlocal said
        now = call(path)
        if now is None or not _leaves(now["spec"]["template"]):
            said = "there was nothing to put back"
        elif _leaves(before["template"]):  # of a run that was killed; what was before it only Helm knows
            said = NOT_BACK
        else:
            call(path, _replaced(before["template"], before["updateStrategy"]))
            said = "the daemons are put back, and what was undone on other nodes with them"
        return ""

    try:
        until(PUT_BACK_SECONDS, look)
    except Failed as failed:
        return f"{NOT_BACK}: {failed}"
    return said


def _args(pod: Json) -> list[str]:
    """Of a pod or of a template: what it does to its node. Labels do not tell: others may set and keep them."""
    args: list[str] = pod["spec"]["initContainers"][0]["args"]
    return args


def _leaves(pod: Json) -> bool:
    return _args(pod)[:1] == [LEAVE]


def _purges(daemonset: Json) -> bool:
    return bool(daemonset["metadata"].get("annotations", {}).get(PURGE) == "true")


def _take_back(call: Call, silent: set[str]) -> None:
    """What the daemons told of their nodes: the next network's word must count. It keeps nobody from leaving."""

    def look() -> str:
        refused = ""
        for node in call("/api/v1/nodes")["items"]:
            path = f"/api/v1/nodes/{node['metadata']['name']}"
            for where, patch in ((path, _unsaid(node)), (f"{path}/status", _untold(node))):
                try:
                    _ = node["metadata"]["name"] not in silent and patch and call(where, patch)
                except Failed as failed:  # such as: somebody wrote meanwhile, and its place is another one
                    refused = str(failed)
        return refused

    try:
        until(TAKE_BACK_SECONDS, look)
    except Failed as failed:
        print(f"what was told of the nodes is not all taken back: {failed}", flush=True)


def _unsaid(node: Json) -> list[Json]:
    said = [key for key in node["metadata"].get("annotations", {}) if key.startswith(OURS)]
    return [{"op": "remove", "path": f"/metadata/annotations/{_escaped(key)}"} for key in said]


def _untold(node: Json) -> list[Json]:
    for place, told in enumerate(node["status"].get("conditions", [])):
        if told["type"] == TOLD and told.get("reason") in (UP, NOT_READY):
            where = f"/status/conditions/{place}"
            still = {"op": "test", "path": f"{where}/type", "value": TOLD}
            return [still, {"op": "remove", "path": where}]
    return []


def _escaped(key: str) -> str:
    return key.replace("/", "~1")


def _replaced(template: Json, strategy: Json) -> list[Json]:
    changes = {"/spec/template": template, "/spec/updateStrategy": strategy}
    return [{"op": "replace", "path": where, "value": value} for where, value in changes.items()]


def _left(call: Call, path: str) -> str:
    """What is still to be waited for."""
    daemonset = call(path)
    if daemonset is None:
        raise Failed("somebody deleted the DaemonSet meanwhile: run `headcni uninstall` on each node")
    asked = _args(daemonset["spec"]["template"])
    if not _leaves(daemonset["spec"]["template"]):
        raise Failed("somebody put the daemons back meanwhile")
    status = daemonset.get("status", {})
    if status.get("observedGeneration", 0) < daemonset["metadata"]["generation"]:
        return "the DaemonSet controller"
    silent = _silent(call)
    left, waiting, refusing = set[str](), dict[str, str](), list[str]()
    for pod in pods_of(call, daemonset):
        node = pod["spec"].get("nodeName", "")
        done, said, failures = _outcome(pod, asked)
        if done:
            left.add(node)
        elif node not in silent:
            waiting[node] = said
            refusing += [node] if failures >= TRIES else []
    if waiting and len(refusing) == len(waiting):
        raise Failed("these nodes cannot be left:" + _listed(waiting.items()))
    if waiting:
        return _listed(waiting.items())
    missing = status.get("desiredNumberScheduled", 0) - len(left | silent)
    return f"pods for {missing} nodes" if missing > 0 else ""


def _outcome(pod: Json, asked: list[str]) -> tuple[bool, str, int]:
    """Whether its node is left as it is asked now; if not, what it says, and how often it failed."""
    if _args(pod) != asked:
        return False, "its former pod is still to end", 0
    for status in pod.get("status", {}).get("initContainerStatuses", []):
        ended = status.get("state", {}).get("terminated") or status.get("lastState", {}).get("terminated")
        if ended is None:
            waits = status.get("state", {}).get("waiting", {})
            return False, waits.get("message") or waits.get("reason") or "is leaving", 0
        if ended["exitCode"] == 0:
            return True, "", 0
        failures = status.get("restartCount", 0) + ("terminated" in status.get("state", {}))
        return False, ended.get("message", "").strip() or f"exit code {ended['exitCode']}", failures
    return False, "its pod is still to start", 0


def _silent(call: Call) -> set[str]:
    """Nodes whose kubelet says nothing any more. `False` is no silence: without a network every node says that."""
    nodes = call("/api/v1/nodes")["items"]
    return {each["metadata"]["name"] for each in nodes if conditions(each, "Ready").get("status") == "Unknown"}


def _listed(said: Iterable[tuple[str, str]]) -> str:
    return "".join(f"\n  {node or '(no node yet)'}: {why}" for node, why in sorted(said))


# --- check


def check(call: Call, path: str, seconds: float) -> str:
    until(seconds, lambda: _not_up(call, path))
    return "every node says that HeadCNI is up"


def _not_up(call: Call, path: str) -> str:
    daemonset = call(path)
    if daemonset is None:
        raise Failed(f"there is no {path}")
    names = {pod["spec"].get("nodeName", "") for pod in pods_of(call, daemonset)}
    wanted = daemonset.get("status", {}).get("desiredNumberScheduled", 0)
    if not names or len(names) < wanted:
        return f"{len(names)} of {wanted} daemons are there"
    wrong: dict[str, str] = {}
    for node in call("/api/v1/nodes")["items"]:
        if node["metadata"]["name"] in names:
            told = conditions(node, TOLD)
            mesh = node["metadata"].get("annotations", {}).get(MESH, "")
            if (told.get("status"), told.get("reason")) != ("False", UP):
                shown = f"{told['status']} {told.get('reason')}: {told.get('message')}" if told else "not told yet"
                wrong[node["metadata"]["name"]] = f"{TOLD} is {shown}"
            elif mesh.startswith(NOT_IN_FORCE):
                wrong[node["metadata"]["name"]] = f"the mesh is {mesh}"
    return _listed(wrong.items())


def _told_to_end(_number: int, _frame: object) -> None:
    raise Failed("this was told to end: the Job was deleted, or its time was up")


def _hear_no_more() -> None:
    """What follows is short, and is to be done either way."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=("leave", "check"))
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--daemonset", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--template", type=Path, help="for leave: JSON")
    parser.add_argument("--url", help="of the API server; default: as a pod is told")
    parser.add_argument("--account", type=Path, default=ACCOUNT, help="directory of token and ca.crt")
    args = parser.parse_args(argv)
    path = f"/apis/apps/v1/namespaces/{args.namespace}/daemonsets/{args.daemonset}"
    call = caller((args.url or in_cluster()).rstrip("/"), args.account)
    try:
        if args.verb == "leave":
            signal.signal(signal.SIGTERM, _told_to_end)
            print(leave(call, path, json.loads(args.template.read_text()), args.seconds))
        else:
            print(check(call, path, args.seconds))
    except Failed as failed:
        print(failed, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"the API server does not answer: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
