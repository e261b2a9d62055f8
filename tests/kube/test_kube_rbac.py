"""One list of permissions: what is granted, what is asked for, and what the code does."""

import asyncio
from itertools import product

import pytest
import yaml

from cni.spec import Refusal
from fixtures.kube.fake_api import FakeApi
from reconciler.kube.codes import Trouble
from reconciler.kube.rbac import REVIEWS, RULES, Role, check, manifests
from reconciler.operate.cli import main


def asked(role, denied=(), refuse=None):
    api = FakeApi()
    api.denied = set(denied)
    api.refuse = lambda verb, path: refuse
    found = asyncio.run(check(api, role, node="worker-1", namespace="kube-system"))
    return found, [body["spec"]["resourceAttributes"] for _, path, body in api.calls if path == REVIEWS]


@pytest.mark.parametrize("role", Role)
def test_every_verb_of_the_list_is_asked_for_and_nothing_else(role):
    found, questions = asked(role)
    assert found == []
    put = {(each["verb"], each["group"], each["resource"], each["subresource"]) for each in questions}
    listed = set()
    for rule in RULES:
        if rule.role is role:
            resource, _, sub = rule.resource.partition("/")
            listed |= set(product(rule.verbs, [rule.group], [resource], [sub]))
    assert put == listed


def test_questions_are_as_narrow_as_the_requests():
    _, questions = asked(Role.DAEMON)
    by_verb = {(each["verb"], each["resource"], each["subresource"]): each for each in questions}
    assert by_verb["patch", "nodes", "status"]["name"] == "worker-1"
    assert by_verb["get", "nodes", ""]["name"] == "worker-1"
    assert by_verb["watch", "nodes", ""]["name"] == "worker-1"
    assert by_verb["watch", "nodes", ""]["fieldSelector"]["requirements"][0]["key"] == "metadata.name"
    assert "fieldSelector" not in by_verb["patch", "nodes", ""]
    selector = by_verb["list", "pods", ""]["fieldSelector"]
    assert selector == {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["worker-1"]}]}
    assert "namespace" not in by_verb["create", "events", ""]
    _, questions = asked(Role.APPROVER)
    lease = next(each for each in questions if each["verb"] == "update")
    assert (lease["namespace"], lease["name"], lease["group"]) == (
        "kube-system",
        "headcni-approver",
        "coordination.k8s.io",
    )
    assert all("name" not in each for each in questions if each["verb"] == "create")
    assert all("fieldSelector" not in each for each in questions)


def test_what_is_denied_is_named_with_the_rule_that_grants_it():
    (found,), _ = asked(Role.DAEMON, denied={("patch", "nodes/status"), ("patch", "pods")})
    assert found.code == Trouble.API_FORBIDDEN
    assert found.msg == "fake does not grant: patch nodes/status (no rule)"
    assert found.details == (
        'it is for: the condition NetworkUnavailable; grant by RBAC apiGroups: [""], '
        'resources: ["nodes/status"], verbs: [patch]'
    )


def test_several_verbs_of_one_rule_are_one_refusal():
    (found,), _ = asked(Role.DAEMON, denied={("list", "pods"), ("watch", "pods")})
    assert "list, watch pods" in found.msg


def test_where_nothing_can_be_asked_that_is_told():
    away = Refusal(Trouble.API_UNREACHABLE, "no route", "")
    assert asked(Role.DAEMON, refuse=away)[0] == [away]


def granted(objects):
    """(scope, group, resource, verb, resourceNames) of all rules."""
    return {
        (each["kind"], group, resource, verb, tuple(rule.get("resourceNames", ())))
        for each in objects
        if "rules" in each
        for rule in each["rules"]
        for group, resource, verb in product(rule["apiGroups"], rule["resources"], rule["verbs"])
    }


def test_the_manifests_grant_exactly_the_list():
    assert granted(manifests(Role.DAEMON, "kube-system")) == {
        ("ClusterRole", "", "nodes", "get", ()),
        ("ClusterRole", "", "nodes", "list", ()),
        ("ClusterRole", "", "nodes", "watch", ()),
        ("ClusterRole", "", "nodes", "patch", ()),
        ("ClusterRole", "", "nodes/status", "patch", ()),
        ("ClusterRole", "", "pods", "list", ()),
        ("ClusterRole", "", "pods", "watch", ()),
        ("ClusterRole", "", "events", "create", ()),
    }
    group, name = "coordination.k8s.io", ("headcni-approver",)
    assert granted(manifests(Role.APPROVER, "kube-system")) == {
        ("ClusterRole", "", "nodes", "get", ()),
        ("ClusterRole", "", "nodes", "list", ()),
        ("ClusterRole", "", "nodes", "watch", ()),
        ("Role", group, "leases", "create", ()),
        ("Role", group, "leases", "get", name),
        ("Role", group, "leases", "update", name),
    }


def test_each_role_is_bound_to_the_account_of_its_name():
    made = manifests(Role.APPROVER, "mesh")
    roles = {(each["kind"], each["metadata"]["name"]) for each in made if "rules" in each}
    for binding in (each for each in made if "roleRef" in each):
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in roles
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "headcni-approver", "namespace": "mesh"}]
    assert {each["metadata"].get("namespace") for each in made if each["kind"].startswith("Role")} == {"mesh"}


def test_the_command_prints_the_same(capsys):
    assert main(["rbac", "--namespace", "mesh"]) == 0
    printed = list(yaml.safe_load_all(capsys.readouterr().out))
    accounts = [each for each in printed if each["kind"] == "ServiceAccount"]
    assert [each["metadata"] for each in accounts] == [{"name": role.value, "namespace": "mesh"} for role in Role]
    rest = [each for each in printed if each not in accounts]
    assert rest == [each for role in Role for each in manifests(role, "mesh")]
