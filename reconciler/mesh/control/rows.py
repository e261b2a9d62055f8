"""Headscale up to 0.25: each route of each node is a row with an id, which is enabled or disabled.

0.22 says "machine" where later ones say "node"; else they are alike. A row comes into being when the node announces the
prefix. When the node does no longer, the row stays for ever, disabled, and may go on saying isPrimary: so a route
is in force only if it is announced, enabled and primary. What has no announced row cannot be approved, not even in
advance. The routes of others are never in danger: each request is about one row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble
from reconciler.mesh.control.backend import Generation, Post, Wish
from reconciler.mesh.control.shapes import Object, Unexpected, identifier, node, objects, prefix, text
from reconciler.mesh.model import ControlNode
from reconciler.settings import Network


@dataclass(frozen=True, slots=True)
class Row:
    id: str
    prefix: Network
    announced: bool
    enabled: bool
    primary: bool


@dataclass(frozen=True, slots=True)
class RowsEntry:
    node: ControlNode
    rows: tuple[Row, ...]
    generation: Generation

    def posts(self, wish: Wish) -> tuple[Post, ...]:
        return tuple(
            [Post(f"/api/v1/routes/{row.id}/enable") for row in self.rows if _to_enable(row, wish)]
            + [Post(f"/api/v1/routes/{row.id}/disable") for row in self.rows if _to_disable(row, wish)]
        )

    def refusal(self, wish: Wish) -> Refusal | None:
        missing = wish.wanted - {row.prefix for row in self.rows if row.announced}
        if not missing:
            return None
        named = ", ".join(sorted(map(str, missing)))
        what = f"{self.node.name} (node {self.node.id}) does not announce {named} yet"
        cure = f"Headscale {self.generation} approves only what is announced: announce it first"
        return Refusal(Trouble.NOT_ANNOUNCED, what, cure)


def _to_enable(row: Row, wish: Wish) -> bool:
    return row.prefix in wish.wanted and row.announced and (wish.again or not row.enabled)


def _to_disable(row: Row, wish: Wish) -> bool:
    return row.prefix in wish.unwanted - wish.wanted and row.enabled


@dataclass(frozen=True, slots=True)
class RowsBackend:
    generation: Generation
    word: str  # what a node is called

    @property
    def questions(self) -> tuple[str, ...]:
        return (f"/api/v1/{self.word}", "/api/v1/routes")

    def entries(self, answers: Sequence[Any]) -> tuple[RowsEntry, ...]:
        nodes, routes = answers
        rows: dict[str, list[Row]] = {}
        for found in objects(routes, "routes"):
            owner, row = self._row(found)
            if row is not None:
                rows.setdefault(owner, []).append(row)
        return tuple(
            self._entry(found, tuple(rows.get(identifier(found), ()))) for found in objects(nodes, f"{self.word}s")
        )

    def _row(self, found: Object) -> tuple[str, Row | None]:
        owner = found.get(self.word)
        if not isinstance(owner, Mapping):
            raise Unexpected(f"a route in it has no {self.word!r}")
        network = prefix(text(found, "prefix"))
        flags = [found.get(name) is True for name in ("advertised", "enabled", "isPrimary")]
        return identifier(owner), None if network is None else Row(identifier(found), network, *flags)

    def _entry(self, found: Object, rows: tuple[Row, ...]) -> RowsEntry:
        seen = node(
            found,
            announced=frozenset(row.prefix for row in rows if row.announced),
            approved=frozenset(row.prefix for row in rows if row.enabled),
            primary=frozenset(row.prefix for row in rows if row.announced and row.enabled and row.primary),
        )
        return RowsEntry(seen, rows, self.generation)


MACHINES = RowsBackend(Generation.MACHINES, "machine")
NODES = RowsBackend(Generation.ROUTES, "node")
