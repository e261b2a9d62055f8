"""Headscale from 0.26 on: each node has a list of approved prefixes, which a request replaces as a whole.

So what is written is always made from what was just read: the others' prefixes, exit routes included, text for text
as they were, and ours added or taken out. There is no way to say "only if it is still as I read it": who else writes
within those milliseconds is overwritten, or overwrites us, which the reading afterwards shows.

A body with a misspelt field is answered with 200 and takes every approval of the node away. So bodies are made in one
place, `_replace()`, and tests hold it against the real servers. A list that is missing in an answer is refused, never
taken for empty: it would be written back as empty.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from cni.spec import Refusal
from reconciler.mesh.control.backend import Generation, Post, Wish
from reconciler.mesh.control.shapes import Object, node, objects, prefix, prefixes, texts
from reconciler.mesh.model import ControlNode
from reconciler.settings import Network


def merged(approved: Sequence[str], wanted: Collection[Network], unwanted: Collection[Network]) -> tuple[str, ...]:
    """What is both wanted and unwanted is wanted. Of two texts that are the same, one is kept, as Headscale does."""
    gone = set(unwanted) - set(wanted)
    kept = [text for text in approved if prefix(text) not in gone]
    added = sorted(str(each) for each in set(wanted) - prefixes(kept))
    return tuple(dict.fromkeys([*kept, *added]))


def _replace(node_id: str, routes: Sequence[str]) -> Post:
    return Post(f"/api/v1/node/{node_id}/approve_routes", {"routes": list(routes)})


@dataclass(frozen=True, slots=True)
class ApprovalsEntry:
    node: ControlNode
    approved: tuple[str, ...]

    def posts(self, wish: Wish) -> tuple[Post, ...]:
        becomes = merged(self.approved, wish.wanted, wish.unwanted)
        if set(becomes) == set(self.approved) and not (wish.again and wish.wanted):
            return ()
        return (_replace(self.node.id, becomes),)

    def refusal(self, wish: Wish) -> Refusal | None:
        return None


@dataclass(frozen=True, slots=True)
class ApprovalsBackend:
    generation: Generation = Generation.APPROVALS
    questions: tuple[str, ...] = ("/api/v1/node",)

    def entries(self, answers: Sequence[Any]) -> tuple[ApprovalsEntry, ...]:
        return tuple(_entry(found) for found in objects(answers[0], "nodes"))


APPROVALS = ApprovalsBackend()


def _entry(found: Object) -> ApprovalsEntry:
    approved = texts(found, "approvedRoutes")
    seen = node(
        found,
        announced=prefixes(texts(found, "availableRoutes")),
        approved=prefixes(approved),
        primary=prefixes(texts(found, "subnetRoutes")),
    )
    return ApprovalsEntry(seen, approved)
