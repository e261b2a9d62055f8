"""What holds between our client and an API server: run on the stand-in, and on a real kube-apiserver.

Each check is a coroutine over an `Environment`, with nodes of its own, so that the order does not matter. What takes
time is waited for. `contract_others.py` has more of them.
"""

from __future__ import annotations

from typing import Any

from cni.spec import Refusal
from reconciler.kube import watch as watching
from reconciler.kube.assemble import may_read_node
from reconciler.kube.codes import Trouble
from reconciler.kube.ports import Patch, Seen, What
from tests.kube import contract_others
from tests.kube.contract_tools import NODES, Environment, Follower, client, fresh, good, refused

LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"


# --- calls


async def an_object_is_read(environment: Environment) -> None:
    name = fresh(environment)
    await environment.add_node(name, "10.244.7.0/24")
    async with client(environment) as api:
        node = await good(api.get(f"{NODES}/{name}"))
        assert node["spec"]["podCIDRs"] == ["10.244.7.0/24"]


async def what_is_missing_is_refused_with_404(environment: Environment) -> None:
    async with client(environment) as api:
        refusal = await refused(api.get(f"{NODES}/nobody"), Trouble.API_ANSWER, 404)
        assert 'nodes "nobody" not found' in refusal.msg


async def an_object_is_created_once(environment: Environment) -> None:
    body = {"metadata": {"name": f"{fresh(environment)}", "namespace": "default"}, "spec": {"holderIdentity": "one"}}
    async with client(environment) as api:
        made = await good(api.create(LEASES, body))
        assert made["metadata"]["resourceVersion"]
        await refused(api.create(LEASES, body), Trouble.API_ANSWER, 409)


async def replacing_an_older_version_is_refused_with_409(environment: Environment) -> None:
    body = {"metadata": {"name": fresh(environment), "namespace": "default"}, "spec": {"holderIdentity": "one"}}
    async with client(environment) as api:
        first = await good(api.create(LEASES, body))
        path = f"{LEASES}/{first['metadata']['name']}"
        second = await good(api.replace(path, {**first, "spec": {"holderIdentity": "two"}}))
        assert second["spec"]["holderIdentity"] == "two"
        await refused(api.replace(path, {**first, "spec": {"holderIdentity": "three"}}), Trouble.API_ANSWER, 409)
        assert (await good(api.get(path)))["spec"]["holderIdentity"] == "two"


async def an_event_is_created(environment: Environment) -> None:
    name = fresh(environment)
    body = {
        "metadata": {"name": name, "namespace": "default"},
        "involvedObject": {"kind": "Node", "name": name},
        "reason": "HeadCNIIsUp",
        "message": "it is",
        "type": "Normal",
    }
    async with client(environment) as api:
        assert (await good(api.create("/api/v1/namespaces/default/events", body)))["reason"] == "HeadCNIIsUp"


async def annotations_are_merged(environment: Environment) -> None:
    name = fresh(environment)
    await environment.add_node(name, annotations={"theirs": "1"})
    async with client(environment) as api:
        patch = {"metadata": {"annotations": {"headcni.io/mesh": "in force"}}}
        node = await good(api.patch(f"{NODES}/{name}", patch, Patch.MERGE))
        assert node["metadata"]["annotations"] == {"theirs": "1", "headcni.io/mesh": "in force"}


async def a_condition_is_replaced_among_others(environment: Environment) -> None:
    name = fresh(environment)
    await environment.add_node(name)
    async with client(environment) as api:
        path = f"{NODES}/{name}/status"
        for kind, status in (("Ready", "True"), ("NetworkUnavailable", "True"), ("NetworkUnavailable", "False")):
            patch = {"status": {"conditions": [{"type": kind, "status": status}]}}
            node = await good(api.patch(path, patch, Patch.STRATEGIC))
        told = {each["type"]: each["status"] for each in node["status"]["conditions"]}
        assert told == {"Ready": "True", "NetworkUnavailable": "False"}


async def a_list_is_changed_only_where_it_is_as_expected(environment: Environment) -> None:
    name = fresh(environment)
    await environment.add_node(name)
    async with client(environment) as api:
        path = f"{NODES}/{name}"
        taints = [{"key": key, "effect": "NoSchedule"} for key in ("a.example/x", "headcni.io/not-ready")]
        await good(api.patch(path, {"spec": {"taints": taints}}, Patch.MERGE))
        there = {"op": "test", "path": "/spec/taints/1/key", "value": "headcni.io/not-ready"}
        remove = {"op": "remove", "path": "/spec/taints/1"}
        node = await good(api.patch(path, [there, remove], Patch.JSON))
        assert [taint["key"] for taint in node["spec"]["taints"]] == ["a.example/x"]
        await refused(api.patch(path, [there, remove], Patch.JSON), Trouble.API_ANSWER, 422)


async def what_is_not_permitted_names_the_rule(environment: Environment) -> None:
    await environment.allow("list", "nodes")
    async with client(environment, "guest") as api:
        assert await good(api.get(NODES))
        refusal = await refused(api.get(f"{NODES}/some"), Trouble.API_FORBIDDEN, 403)
        assert "may not get nodes" in refusal.msg
        assert refusal.details.endswith('- {apiGroups: [""], resources: ["nodes"], verbs: ["get"]}')


async def rights_are_asked_for(environment: Environment) -> None:
    name = fresh(environment)
    async with client(environment, "guest") as api:
        await environment.allow("get", "nodes")
        assert await may_read_node(api, name) is None
        await environment.allow("list", "pods")
        refusal = await may_read_node(api, name)
        assert refusal is not None
        assert refusal.code == Trouble.API_FORBIDDEN


async def an_unknown_token_is_refused(environment: Environment) -> None:
    async with client(environment, "stranger") as api:
        refusal = await refused(api.get(NODES), Trouble.API_CREDENTIALS, 401)
        assert "does not accept these credentials" in refusal.msg


# --- watches


async def a_list_comes_in_pages(environment: Environment) -> None:
    names = {fresh(environment) for _ in range(5)}
    for name in names:
        await environment.add_node(name)
    before, watching.PAGE = watching.PAGE, 2
    try:
        async with client(environment) as api, Follower(api, NODES) as follower:
            assert isinstance(follower.said[0], Seen)
            assert follower.said[0].what is What.LISTED
            assert names <= set(follower.objects)
    finally:
        watching.PAGE = before


async def a_version_that_is_yet_to_come_cannot_be_listed(environment: Environment) -> None:
    """As of a server that lags behind the one that was asked before."""
    query = {"limit": "100", "resourceVersion": "999999999", "resourceVersionMatch": "NotOlderThan"}
    async with client(environment) as api:
        refusal = await refused(api.get(NODES, query), Trouble.API_ANSWER, 504)
        assert watching.TOO_LARGE in refusal.msg.lower()


async def what_was_seen_and_what_is_at_hand_can_be_listed(environment: Environment) -> None:
    name = fresh(environment)
    await environment.add_node(name)
    async with client(environment) as api:
        version = (await good(api.get(f"{NODES}/{name}")))["metadata"]["resourceVersion"]
        for wanted in (version, watching.AT_HAND):
            query = {"limit": "100", "resourceVersion": wanted, "resourceVersionMatch": "NotOlderThan"}
            listed = await good(api.get(NODES, {**query, "fieldSelector": f"metadata.name={name}"}))
            assert [each["metadata"]["name"] for each in listed["items"]] == [name]


async def changes_come_in_their_order(environment: Environment) -> None:
    name = fresh(environment)
    async with client(environment) as api, Follower(api, NODES) as follower:
        heard = len(follower.said)
        await environment.add_node(name)
        await follower.until(lambda it: name in it.objects)
        await good(api.patch(f"{NODES}/{name}", {"metadata": {"labels": {"zone": "one"}}}, Patch.MERGE))
        await follower.until(lambda it: it.objects[name]["metadata"].get("labels") == {"zone": "one"})
        await environment.remove_node(name)
        await follower.until(lambda it: name not in it.objects)
        whats = [each.what for each in follower.said[heard:] if name in str(each)]
        assert (whats[0], whats[-1]) == (What.CHANGED, What.DELETED)


async def only_what_is_selected_comes(environment: Environment) -> None:
    mine, other = fresh(environment), fresh(environment)
    query = {"fieldSelector": f"metadata.name={mine}"}
    async with client(environment) as api, Follower(api, NODES, query) as follower:
        await environment.add_node(other)
        await environment.add_node(mine)
        await follower.until(lambda it: mine in it.objects)
        assert set(follower.objects) == {mine}


async def only_what_is_kept_is_held(environment: Environment) -> None:
    name = fresh(environment)

    def keep(found: Any) -> Any:
        return {"metadata": {"name": found["metadata"]["name"]}} if found["metadata"]["name"] == name else None

    async with client(environment) as api, Follower(api, NODES, keep=keep) as follower:
        await environment.add_node(fresh(environment))
        await environment.add_node(name)
        await follower.until(lambda it: name in it.objects)
        assert follower.objects == {name: {"metadata": {"name": name}}}
        assert not any(each.objects == (None,) for each in follower.said if isinstance(each, Seen))


async def a_watch_that_may_not_says_so_until_it_may(environment: Environment) -> None:
    await environment.allow("list", "pods")
    async with client(environment, "guest") as api, Follower(api, NODES) as follower:
        assert follower.trouble is not None
        assert follower.trouble.code == Trouble.API_FORBIDDEN
        await environment.allow("list watch", "nodes")
        await follower.until(lambda it: it.trouble is None)


async def a_watch_outlives_its_server(environment: Environment) -> None:
    before, after = fresh(environment), fresh(environment)
    await environment.add_node(before)
    async with client(environment) as api, Follower(api, NODES) as follower:
        await environment.kill()
        try:
            await follower.until(lambda it: it.trouble and "connection refused" in it.trouble.msg)
            assert follower.trouble is not None
            assert follower.trouble.code == Trouble.API_UNREACHABLE
            assert before in follower.objects  # what was learned stays known
        finally:
            await environment.start()
        await follower.until(lambda it: it.trouble is None)
        await environment.add_node(after)
        await follower.until(lambda it: after in it.objects)
        assert before in follower.objects


async def what_was_forgotten_is_listed_anew(environment: Environment) -> None:
    gone, stays = fresh(environment), fresh(environment)
    await environment.add_node(gone)
    await environment.add_node(stays)
    async with client(environment) as api, Follower(api, NODES) as follower:
        await environment.kill()
        await follower.until(lambda it: it.trouble)
        await environment.start()
        await environment.remove_node(gone)
        await environment.forget()
        await follower.until(lambda it: gone not in it.objects and it.trouble is None)
        assert stays in follower.objects
        later = fresh(environment)
        await environment.add_node(later)
        await follower.until(lambda it: later in it.objects)


async def closing_ends_a_watch(environment: Environment) -> None:
    async with client(environment) as api, Follower(api, NODES) as follower:
        await api.close()
        await follower.ended()
        assert isinstance(await api.get(NODES), Refusal)


CHECKS = (
    an_object_is_read,
    what_is_missing_is_refused_with_404,
    an_object_is_created_once,
    replacing_an_older_version_is_refused_with_409,
    an_event_is_created,
    annotations_are_merged,
    a_condition_is_replaced_among_others,
    a_list_is_changed_only_where_it_is_as_expected,
    what_is_not_permitted_names_the_rule,
    rights_are_asked_for,
    an_unknown_token_is_refused,
    a_list_comes_in_pages,
    a_version_that_is_yet_to_come_cannot_be_listed,
    what_was_seen_and_what_is_at_hand_can_be_listed,
    changes_come_in_their_order,
    only_what_is_selected_comes,
    only_what_is_kept_is_held,
    a_watch_that_may_not_says_so_until_it_may,
    a_watch_outlives_its_server,
    what_was_forgotten_is_listed_anew,
    closing_ends_a_watch,
    *contract_others.CHECKS,
)
