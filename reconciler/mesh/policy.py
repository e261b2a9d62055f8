"""autoApprovers: Headscale approves by itself what nodes of an owner announce within the cluster's pod CIDRs.

No key on any node and no approver: the first choice. `snippet()` is what a policy must hold, `merged()` puts it into
one that exists. A policy may be HuJSON, JSON with comments. We do not rewrite such a one, nor one with
a key twice: what a person wrote there would be lost. It is told to be done by hand, as where Headscale reads its
policy from a file.

Without a policy all may reach all. With one that holds nothing but autoApprovers, 0.26 lets no packet pass, and 0.25
refuses it. So where there is none, `merged()` makes one that also says that all may reach all.

Who owns a node is a user or a tag. A user is written `pods` up to 0.25 and `pods@` from 0.26 on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any, Protocol

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble
from reconciler.mesh.control.backend import Generation
from reconciler.mesh.networks import covers
from reconciler.settings import Network

_KEY = "autoApprovers"
_ALL_REACH_ALL = '{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}'


class PolicyApi(Protocol):
    async def generation(self) -> Generation | Refusal: ...

    async def policy(self) -> str | Refusal: ...

    async def set_policy(self, text: str) -> Refusal | None: ...


def snippet(cluster: Sequence[Network], owner: str, generation: Generation) -> str:
    return json.dumps({_KEY: {"routes": {str(each): [_spelled(owner, generation)] for each in cluster}}}, indent=2)


def merged(policy: str, cluster: Sequence[Network], owner: str, generation: Generation) -> str | Refusal:
    """The policy with what is missing; the same text if nothing is. Where there is none (empty), a whole one."""
    document = _parsed(policy if policy.strip() else _ALL_REACH_ALL)
    if isinstance(document, Refusal):
        return document
    key = next((each for each in document if each.lower() == _KEY.lower()), _KEY)
    approvers = document.setdefault(key, {})
    routes = approvers.setdefault("routes", {}) if isinstance(approvers, dict) else None
    if not isinstance(routes, dict) or not all(isinstance(each, list) for each in routes.values()):
        return _by_hand(f"its {key} have not the form that this version of HeadCNI knows")
    who = _spelled(owner, generation)
    missing = [each for each in cluster if not _approved(each, who, routes)]
    for each in missing:
        routes.setdefault(str(each), []).append(who)
    return json.dumps(document, indent=2, ensure_ascii=False) if missing else policy


async def apply_policy(headscale: PolicyApi, cluster: Sequence[Network], owner: str) -> bool | Refusal:
    """Whether something was to be added. Written, and read again: two who write policies overwrite each other."""
    generation = await headscale.generation()
    if isinstance(generation, Refusal):
        return generation
    before = await headscale.policy()
    if isinstance(before, Refusal):
        return before
    wanted = merged(before, cluster, owner, generation)
    if isinstance(wanted, Refusal):
        return wanted
    if wanted == before:
        return False
    if refusal := await headscale.set_policy(wanted):
        return refusal
    after = await headscale.policy()
    if isinstance(after, Refusal):
        return after
    kept = merged(after, cluster, owner, generation) == after
    return True if kept else _by_hand("it was changed by somebody else at the same time")


def _spelled(owner: str, generation: Generation) -> str:
    if ":" in owner:  # tag:…, group:…, autogroup:…
        return owner
    if generation is Generation.APPROVALS:
        return owner if "@" in owner else f"{owner}@"
    return owner.removesuffix("@")


def _approved(cidr: Network, who: str, routes: dict[str, list[Any]]) -> bool:
    for text, owners in routes.items():
        try:
            covered = covers(ip_network(text, strict=False), cidr)
        except ValueError:
            continue
        if covered and who in owners:
            return True
    return False


def _parsed(policy: str) -> dict[str, Any] | Refusal:
    try:
        document = json.loads(policy, object_pairs_hook=_once_each)
    except ValueError:
        return _by_hand("it is not plain JSON: it has comments, trailing commas or a key twice")
    return document if isinstance(document, dict) else _by_hand("it is not an object")


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key twice")
    return found


def _by_hand(why: str) -> Refusal:
    cure = "add what `headcni mesh policy` prints to the policy by hand, and load it"
    return Refusal(Trouble.HEADSCALE_POLICY, f"Headscale's policy is left as it is: {why}", cure)
