"""autoApprovers: the words for this cluster, put into a policy that exists, and no policy of a person spoilt."""

from __future__ import annotations

import asyncio
import json
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.spec import Refusal
from fixtures.headscale import GENERATIONS, Fault, HeadscaleServer
from reconciler.mesh.codes import Trouble
from reconciler.mesh.control.backend import Generation
from reconciler.mesh.headscale import HeadscaleClient
from reconciler.mesh.policy import apply_policy, merged, snippet

V4, V6 = ip_network("10.244.0.0/16"), ip_network("fd00:10:244::/48")
NEW = Generation.APPROVALS


def routes(policy):
    assert isinstance(policy, str), policy
    return json.loads(policy)["autoApprovers"]["routes"]


@pytest.mark.parametrize(
    ("owner", "generation", "spelled"),
    [
        ("pods", Generation.APPROVALS, "pods@"),
        ("pods@", Generation.APPROVALS, "pods@"),
        ("a@b.example", Generation.APPROVALS, "a@b.example"),
        ("tag:k8s", Generation.APPROVALS, "tag:k8s"),
        ("pods", Generation.ROUTES, "pods"),
        ("pods@", Generation.MACHINES, "pods"),
        ("group:nodes", Generation.ROUTES, "group:nodes"),
    ],
)
def test_the_snippet_names_the_owner_as_the_generation_does(owner, generation, spelled):
    assert routes(snippet([V4, V6], owner, generation)) == {str(V4): [spelled], str(V6): [spelled]}


def test_what_else_is_in_a_policy_stays_in_its_order():
    policy = {
        "groups": {"group:a": ["ä@"]},
        "autoApprovers": {"exitNode": ["tag:exit"], "routes": {"192.168.0.0/16": ["x@"], str(V4): ["y@"]}},
        "acls": [],
    }
    becomes = json.loads(merged(json.dumps(policy), [V4, V6], "pods", NEW))
    policy["autoApprovers"]["routes"] |= {str(V4): ["y@", "pods@"], str(V6): ["pods@"]}
    assert becomes == policy
    assert list(becomes) == list(policy)


@pytest.mark.parametrize("cidr", ["10.244.0.0/16", "10.0.0.0/8", "10.1.2.3/8"])
def test_a_policy_that_says_it_already_is_the_same_text(cidr):
    policy = '{ "autoApprovers": {"routes":   {"%s": ["pods@"]}} }' % cidr
    assert merged(policy, [V4], "pods", NEW) == policy


@pytest.mark.parametrize("cidr", ["10.244.0.0/17", "banana", "fd00::/8"])
def test_what_does_not_cover_the_cluster_is_not_enough(cidr):
    policy = '{"autoApprovers": {"routes": {"%s": ["pods@"]}}}' % cidr
    assert routes(merged(policy, [V4], "pods", NEW)) == {cidr: ["pods@"], str(V4): ["pods@"]}


def test_a_key_in_another_spelling_is_the_same_key():
    """Go reads keys without regard to case, so a second one would hide the first."""
    becomes = json.loads(merged('{"autoapprovers": {"routes": {}}}', [V4], "pods", NEW))
    assert becomes == {"autoapprovers": {"routes": {str(V4): ["pods@"]}}}


@pytest.mark.parametrize("policy", ["", " \n"])
@pytest.mark.parametrize("generation", Generation)
def test_where_there_was_no_policy_all_may_reach_all_afterwards_too(policy, generation):
    becomes = merged(policy, [V4], "pods", generation)
    assert json.loads(becomes)["acls"] == [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]
    assert set(routes(becomes)) == {str(V4)}


@pytest.mark.parametrize(
    "policy",
    [
        '{"acls": [] // all\n}',
        '{"acls": [],}',
        '{"acls": [], "acls": []}',
        '{"autoApprovers": {"routes": {}, "routes": {}}}',
        "[]",
        '"text"',
        '{"autoApprovers": []}',
        '{"autoApprovers": {"routes": []}}',
        '{"autoApprovers": {"routes": {"10.0.0.0/8": "pods@"}}}',
        '{"autoApprovers": null}',
    ],
)
def test_a_policy_that_would_be_spoilt_is_left_to_a_person(policy):
    refused = merged(policy, [V4], "pods", NEW)
    assert isinstance(refused, Refusal)
    assert refused.code == Trouble.HEADSCALE_POLICY
    assert "by hand" in refused.details


values = st.none() | st.integers() | st.lists(st.text()) | st.dictionaries(st.text(), st.text())


@given(st.dictionaries(st.text().filter(lambda key: key.lower() != "autoapprovers"), values))
def test_nothing_else_changes_and_a_second_time_nothing_at_all(policy):
    once = merged(json.dumps(policy), [V4, V6], "pods", NEW)
    becomes = json.loads(once)
    del becomes["autoApprovers"]
    assert becomes == policy
    assert merged(once, [V4, V6], "pods", NEW) == once


# --- applied


def applied(generation, *, policy=None, fault=None, **options):
    async def run():
        async with HeadscaleServer(generation, **options) as server:
            server.tailnet.policy = policy
            if fault:
                server.inject(*fault(server))
            client = HeadscaleClient(server.url, lambda: server.key)
            try:
                return await apply_policy(client, [V4], "pods"), server
            finally:
                await client.close()

    return asyncio.run(run())


@pytest.mark.parametrize("generation", GENERATIONS[1:])
@pytest.mark.parametrize("policy", [None, '{"acls": []}'])
def test_it_is_written_once(generation, policy):
    outcome, server = applied(generation, policy=policy)
    assert outcome is True
    assert set(routes(server.tailnet.policy)) == {str(V4)}
    again, second = applied(generation, policy=server.tailnet.policy)
    assert again is False
    assert not [call for call in second.calls if call.startswith("PUT")]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_policy_in_a_file_is_left_to_a_person(generation):
    outcome, _ = applied(generation, policy_mode="file")
    assert isinstance(outcome, Refusal)
    assert outcome.code == Trouble.HEADSCALE_POLICY
    assert "by hand" in outcome.details


def test_who_writes_at_the_same_time_is_noticed():
    def overwritten(server):
        reads = iter([list, lambda: setattr(server.tailnet, "policy", "{}")])
        return "GET", "/policy", Fault(act=lambda: next(reads)(), times=2)

    outcome, _ = applied("0.29", policy="{}", fault=overwritten)
    assert isinstance(outcome, Refusal)
    assert outcome.code == Trouble.HEADSCALE_POLICY
    assert "somebody else" in outcome.msg


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_what_headscale_refuses_is_told(method):
    outcome, _ = applied("0.29", policy="{}", fault=lambda server: (method, "/policy", Fault(status=500, body="boom")))
    assert isinstance(outcome, Refusal)
    assert outcome.code == Trouble.HEADSCALE_ANSWER
    assert "boom" in outcome.msg
