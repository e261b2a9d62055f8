"""Every permission that HeadCNI asks of Kubernetes, in one list, and why.

Manifests and `headcni doctor` are made from it, so that what is granted, what is checked and what is used cannot
drift apart. It is the least that works; without one of these, pods get their network nevertheless.

RBAC knows no "own" Node: an account that all nodes share may patch all of them. Credentials of a kubelet are
narrower (the Node authorizer and NodeRestriction keep each to its own Node and pods), but may not take a taint
away, which no access review shows. The docstring of `members.py` says what follows from that.

What is asked by `SelfSubjectAccessReview` carries the same selectors as the requests themselves: to a kubelet's
credentials the lists are only granted with them. One request has none, the list of all Nodes (`others.py`); whoever
is refused it does without, so it is not asked about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cni.spec import Refusal
from reconciler.kube.codes import Trouble
from reconciler.kube.ports import Api

REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
GROUP = "rbac.authorization.k8s.io"
LEASE = "headcni-approver"


class Role(StrEnum):
    DAEMON = "headcni"
    APPROVER = "headcni-approver"


class Only(StrEnum):
    """What of all objects is asked for; RBAC grants all, a kubelet's credentials these alone."""

    ALL = ""
    OWN_NODE = "metadata.name"
    OWN_PODS = "spec.nodeName"


@dataclass(frozen=True, slots=True)
class Rule:
    role: Role
    resource: str  # with its subresource
    verbs: tuple[str, ...]
    why: str
    group: str = ""
    only: Only = Only.ALL
    own_namespace: bool = False
    name: str = ""

    @property
    def text(self) -> str:
        named = f', resourceNames: ["{self.name}"]' if self.name else ""
        return f'apiGroups: ["{self.group}"], resources: ["{self.resource}"]{named}, verbs: [{", ".join(self.verbs)}]'


COORDINATION = "coordination.k8s.io"
RULES = (
    Rule(
        *(Role.DAEMON, "nodes", ("get", "list", "watch", "patch")),
        why="pod CIDRs are read there, also of others; annotations are written, and the start-up taint is removed",
        only=Only.OWN_NODE,
    ),
    Rule(Role.DAEMON, "nodes/status", ("patch",), "the condition NetworkUnavailable", only=Only.OWN_NODE),
    Rule(Role.DAEMON, "pods", ("list", "watch"), "names of pods, and which are gone", only=Only.OWN_PODS),
    Rule(Role.DAEMON, "events", ("create",), "what an operator must see"),
    Rule(
        *(Role.APPROVER, "nodes", ("get", "list", "watch")),  # get: by it a way to the API server is tried
        why="which node has which pod CIDR, and who it is in the tailnet",
    ),
    Rule(
        *(Role.APPROVER, "leases", ("create",), "only one approver works at a time", COORDINATION),
        own_namespace=True,  # the name of what is created is not known to RBAC
    ),
    Rule(
        *(Role.APPROVER, "leases", ("get", "update"), "only one approver works at a time", COORDINATION),
        own_namespace=True,
        name=LEASE,
    ),
)


# --- as manifests


def manifests(role: Role, namespace: str) -> list[dict[str, Any]]:
    """The account is of the role's name. `headcni rbac` prints them."""
    rules = [rule for rule in RULES if rule.role is role]
    account = {"kind": "ServiceAccount", "name": role.value, "namespace": namespace}
    made: list[dict[str, Any]] = []
    for within in (False, True):
        granted = [_granted(rule) for rule in rules if rule.own_namespace is within]
        if granted:
            kind = "Role" if within else "ClusterRole"
            meta = {"name": role.value, **({"namespace": namespace} if within else {})}
            made += [
                {"apiVersion": f"{GROUP}/v1", "kind": kind, "metadata": meta, "rules": granted},
                {
                    "apiVersion": f"{GROUP}/v1",
                    "kind": f"{kind}Binding",
                    "metadata": meta,
                    "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role.value},
                    "subjects": [account],
                },
            ]
    return made


def _granted(rule: Rule) -> dict[str, Any]:
    named = {"resourceNames": [rule.name]} if rule.name else {}
    return {"apiGroups": [rule.group], "resources": [rule.resource], **named, "verbs": list(rule.verbs)}


# --- as questions


async def check(api: Api, role: Role, node: str = "", namespace: str = "") -> list[Refusal]:
    """What of the list is not granted, one refusal for each rule; or why that cannot be told."""
    refused: list[Refusal] = []
    for rule in RULES:
        if rule.role is not role:
            continue
        denied: list[str] = []
        reason = ""
        for verb in rule.verbs:
            answer = await api.create(REVIEWS, _review(rule, verb, node, namespace))
            if isinstance(answer, Refusal):
                return [*refused, answer]
            status = answer.get("status", {})
            if status.get("allowed") is not True:
                denied.append(verb)
                reason = status.get("reason") or status.get("evaluationError") or ""
        if denied:
            refused.append(_denied(rule, denied, reason, api.endpoint))
    return refused


def _review(rule: Rule, verb: str, node: str, namespace: str) -> dict[str, Any]:
    resource, _, sub = rule.resource.partition("/")
    asked: dict[str, Any] = {"group": rule.group, "resource": resource, "subresource": sub, "verb": verb}
    asked |= dict(_narrowed(rule, verb, node, namespace))
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }


def _narrowed(rule: Rule, verb: str, node: str, namespace: str) -> Iterator[tuple[str, Any]]:
    if rule.own_namespace:
        yield "namespace", namespace
    if rule.name:
        yield "name", rule.name
    if rule.only is Only.OWN_NODE:
        yield "name", node  # of a list as well: a server reads it from the selector
    if rule.only is not Only.ALL and verb in ("list", "watch"):
        yield "fieldSelector", {"requirements": [{"key": rule.only.value, "operator": "In", "values": [node]}]}


def _denied(rule: Rule, verbs: Iterable[str], reason: str, endpoint: str) -> Refusal:
    why = f" ({reason})" if reason else ""
    what = f"{endpoint} does not grant: {', '.join(verbs)} {rule.resource}{why}"
    return Refusal(Trouble.API_FORBIDDEN, what, f"it is for: {rule.why}; grant by RBAC {rule.text}")
