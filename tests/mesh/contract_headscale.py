"""What holds between our client and any Headscale: run on the stand-in of each generation, and on the real ones.

Each check is a coroutine over an `Environment`, and leaves both nodes with nothing announced and nothing approved.
What the real ones need time for is waited for; what must never happen is looked at when what must happen has.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from typing import Protocol

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble
from reconciler.mesh.control.backend import Generation, Wish
from reconciler.mesh.headscale import HeadscaleClient
from reconciler.mesh.model import ControlNode
from reconciler.mesh.policy import apply_policy
from reconciler.settings import Network

POD, POD6, OTHER_POD = (ip_network(each) for each in ("10.244.1.0/24", "fd00:10:244:1::/64", "10.244.2.0/24"))
CLUSTER = ip_network("10.244.0.0/16")
FOREIGN = ip_network("192.168.44.0/24")
EXIT = tuple(ip_network(each) for each in ("0.0.0.0/0", "::/0"))
PATIENCE = 20.0  # seconds; 0.22 looks for changes every ten


class Environment(Protocol):
    generation: str
    url: str
    key: str
    expired_key: str
    names: Sequence[str]  # of two nodes

    def announce(self, name: str, *prefixes: str) -> None: ...

    def approve_by_hand(self, name: str, *prefixes: str) -> None: ...

    def revoke_by_hand(self, name: str, *prefixes: str) -> None: ...

    def policy_is_a_file(self) -> bool: ...

    def packets_pass(self) -> None:
        """Between the nodes, or it is an error."""


@asynccontextmanager
async def client(environment: Environment, key: str | None = None) -> AsyncIterator[HeadscaleClient]:
    made = HeadscaleClient(environment.url, lambda: environment.key if key is None else key)
    try:
        yield made
    finally:
        await made.close()


def old(environment: Environment) -> bool:
    return environment.generation in ("0.22", "0.25")


async def seen(headscale: HeadscaleClient, name: str) -> ControlNode:
    nodes = await headscale.nodes()
    assert not isinstance(nodes, Refusal), nodes
    return next(node for node in nodes if node.name == name)


async def until(headscale: HeadscaleClient, name: str, holds: Callable[[ControlNode], bool]) -> ControlNode:
    async with asyncio.timeout(PATIENCE):
        node = await seen(headscale, name)
        while not holds(node):
            await asyncio.sleep(0.1)
            node = await seen(headscale, name)
    return node


async def announced(environment: Environment, headscale: HeadscaleClient, name: str, *prefixes: Network) -> ControlNode:
    environment.announce(name, *map(str, prefixes))
    return await until(headscale, name, lambda node: node.announced == set(prefixes))


async def cleared(environment: Environment, headscale: HeadscaleClient) -> None:
    for name in environment.names:
        environment.announce(name)
        approved = (await seen(headscale, name)).approved
        environment.revoke_by_hand(name, *map(str, approved))
        await until(headscale, name, lambda node: not node.announced and not node.approved)


def approved(outcome: ControlNode | Refusal) -> frozenset[Network]:
    assert not isinstance(outcome, Refusal), outcome
    return outcome.approved


# --- the checks


async def generation_is_probed(environment: Environment) -> None:
    names = {"0.22": Generation.MACHINES, "0.25": Generation.ROUTES}
    async with client(environment) as headscale:
        assert await headscale.generation() is names.get(environment.generation, Generation.APPROVALS)


async def nodes_are_what_they_are(environment: Environment) -> None:
    async with client(environment) as headscale:
        nodes = await headscale.nodes()
        assert not isinstance(nodes, Refusal), nodes
        assert {node.name for node in nodes} == set(environment.names)
        assert len({node.id for node in nodes}) == len({node.key for node in nodes}) == len(nodes)
        for node in nodes:
            assert node.id.isdigit()
            assert node.key.startswith("nodekey:")
            assert len(node.key) == len("nodekey:") + 64
            assert {address.version for address in node.addresses} == {4, 6}
            assert any(address in ip_network("100.64.0.0/10") for address in node.addresses)
            assert ip_address("100.64.0.0") not in node.addresses
            assert node.online
            assert node.user == "pods"
            assert not node.tags
            assert not node.announced | node.approved | node.primary


async def approved_comes_into_force(environment: Environment) -> None:
    name = environment.names[0]
    async with client(environment) as headscale:
        node = await announced(environment, headscale, name, POD, POD6)
        assert not node.approved
        assert not node.primary
        assert approved(await headscale.approve(node, {POD, POD6})) == {POD, POD6}
        assert (await until(headscale, name, lambda node: bool(node.primary))).primary == {POD, POD6}
        assert approved(await headscale.approve(node, {POD, POD6})) == {POD, POD6}
        await cleared(environment, headscale)


async def others_routes_are_left(environment: Environment) -> None:
    name = environment.names[0]
    async with client(environment) as headscale:
        node = await announced(environment, headscale, name, POD, POD6, FOREIGN, *EXIT)
        environment.approve_by_hand(name, str(FOREIGN), *map(str, EXIT))
        others = {FOREIGN, *EXIT}
        assert (await until(headscale, name, lambda node: node.approved >= others)).approved == others
        assert approved(await headscale.approve(node, {POD, POD6})) == {POD, POD6, *others}
        assert approved(await headscale.approve(node, {POD}, {POD6})) == {POD, *others}
        assert approved(await headscale.approve(node, (), {POD})) == others
        await until(headscale, name, lambda node: POD not in node.primary)
        await cleared(environment, headscale)


async def many_are_approved_at_once(environment: Environment) -> None:
    one, two = environment.names
    async with client(environment) as headscale:
        first = await announced(environment, headscale, one, POD)
        second = await announced(environment, headscale, two, OTHER_POD)
        wishes = [Wish(first, frozenset({POD})), Wish(second, frozenset({OTHER_POD}))]
        outcomes = await headscale.approve_many(wishes)
        assert [approved(each) for each in outcomes] == [{POD}, {OTHER_POD}]
        await cleared(environment, headscale)


async def before_the_announcement(environment: Environment) -> None:
    """Up to 0.25 there is nothing to approve yet; from 0.26 on it waits for the announcement."""
    name = environment.names[0]
    async with client(environment) as headscale:
        outcome = await headscale.approve(await seen(headscale, name), {POD})
        if old(environment):
            assert isinstance(outcome, Refusal)
            assert outcome.code == Trouble.NOT_ANNOUNCED
            assert str(POD) in outcome.msg
        else:
            assert approved(outcome) == {POD}
            assert not outcome.primary
            environment.announce(name, str(POD))
            await until(headscale, name, lambda node: node.primary == {POD})
        await cleared(environment, headscale)


async def announced_no_longer(environment: Environment) -> None:
    """Up to 0.25 the approval is lost, and has to be given again; the dead row is no approval and serves nothing."""
    name = environment.names[0]
    async with client(environment) as headscale:
        node = await announced(environment, headscale, name, POD)
        await headscale.approve(node, {POD})
        await until(headscale, name, lambda node: node.primary == {POD})
        environment.announce(name)
        node = await until(headscale, name, lambda node: not node.announced and not node.primary)
        assert node.approved == (frozenset() if old(environment) else {POD})
        node = await announced(environment, headscale, name, POD)
        assert approved(await headscale.approve(node, {POD})) == {POD}
        await until(headscale, name, lambda node: node.primary == {POD})
        await cleared(environment, headscale)


async def approving_again_is_harmless(environment: Environment) -> None:
    name = environment.names[0]
    async with client(environment) as headscale:
        node = await announced(environment, headscale, name, POD, FOREIGN)
        environment.approve_by_hand(name, str(FOREIGN))
        await headscale.approve(node, {POD})
        assert approved(await headscale.approve(node, {POD}, again=True)) == {POD, FOREIGN}
        assert (await until(headscale, name, lambda node: len(node.primary) == 2)).primary == {POD, FOREIGN}
        await cleared(environment, headscale)


async def a_key_that_is_not_accepted(environment: Environment) -> None:
    wrong = environment.key[:-4] + ("aaaa" if not environment.key.endswith("aaaa") else "bbbb")
    for what, key in (("wrong", wrong), ("nonsense", "nonsense"), ("expired", environment.expired_key)):
        async with client(environment, key) as headscale:
            refused = await headscale.nodes()
            assert isinstance(refused, Refusal), f"the {what} key is accepted"
            assert refused.code == Trouble.HEADSCALE_KEY, refused
            assert key not in str(refused)


async def a_node_that_is_not_there(environment: Environment) -> None:
    async with client(environment) as headscale:
        node = await seen(headscale, environment.names[0])
        for stranger in (
            ControlNode("9999", "stranger", node.key),
            ControlNode(node.id, "reborn", "nodekey:" + "0" * 64),
        ):
            outcome = await headscale.approve(stranger, {POD})
            assert isinstance(outcome, Refusal)
            assert outcome.code == Trouble.NODE_DELETED
        assert not (await seen(headscale, environment.names[0])).approved


async def the_policy_approves_by_itself(environment: Environment) -> None:
    """Only what lies in the cluster's CIDR; and nothing is reached that was not, or no longer."""
    if environment.generation == "0.22" or environment.policy_is_a_file():
        return
    name = environment.names[0]
    async with client(environment) as headscale:
        assert await apply_policy(headscale, [CLUSTER], "pods") is True
        assert await apply_policy(headscale, [CLUSTER], "pods") is False
        await announced(environment, headscale, name, POD, FOREIGN)
        node = await until(headscale, name, lambda node: bool(node.primary))
        assert node.approved == node.primary == {POD}
        environment.packets_pass()
        await cleared(environment, headscale)


async def the_policy(environment: Environment) -> None:
    text = '{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}'
    async with client(environment) as headscale:
        await headscale.generation()
        before = await headscale.policy()
        refused = await headscale.set_policy(text)
        if environment.generation == "0.22" or environment.policy_is_a_file():
            assert isinstance(refused, Refusal)
            assert refused.code == Trouble.HEADSCALE_POLICY
            return
        assert not isinstance(before, Refusal), before
        assert refused is None
        assert await headscale.policy() == text
        bad = await headscale.set_policy("not a policy")
        assert isinstance(bad, Refusal)
        assert bad.code == Trouble.HEADSCALE_ANSWER
        assert await headscale.policy() == text


CHECKS: tuple[Callable[[Environment], Awaitable[None]], ...] = (
    generation_is_probed,
    nodes_are_what_they_are,
    approved_comes_into_force,
    others_routes_are_left,
    many_are_approved_at_once,
    before_the_announcement,
    announced_no_longer,
    approving_again_is_harmless,
    a_key_that_is_not_accepted,
    a_node_that_is_not_there,
    the_policy_approves_by_itself,
    the_policy,
)
