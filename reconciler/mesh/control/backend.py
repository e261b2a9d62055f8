"""What the generations of Headscale's API have in common, seen from here.

Each is two pure functions: from the answers to its questions to one `Entry` for each node; and from an entry and a
`Wish` to the requests that are still to be made. None left means that the wish is fulfilled. So approving is the same
loop for all of them (read, ask what is missing, write it, read again) and only it talks to anybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from cni.spec import Refusal
from reconciler.mesh.model import ControlNode
from reconciler.settings import Network


class Generation(StrEnum):
    MACHINES = "0.22"
    ROUTES = "0.23 to 0.25"
    APPROVALS = "0.26 or newer"


@dataclass(frozen=True, slots=True)
class Wish:
    """For one node; what is neither wanted nor unwanted stays as it is."""

    node: ControlNode
    wanted: frozenset[Network] = field(default=frozenset())
    unwanted: frozenset[Network] = field(default=frozenset())
    again: bool = False  # approve also what is approved already: that mends a route which is served by nobody


@dataclass(frozen=True, slots=True)
class Post:
    path: str
    body: Mapping[str, Any] | None = None


class Entry(Protocol):
    """A node, as one reading saw it."""

    @property
    def node(self) -> ControlNode: ...

    def posts(self, wish: Wish) -> tuple[Post, ...]:
        """What is to be written so that the wish comes true."""

    def refusal(self, wish: Wish) -> Refusal | None:
        """What of the wish cannot be had from this generation as things stand."""


class Backend(Protocol):
    @property
    def generation(self) -> Generation: ...

    @property
    def questions(self) -> tuple[str, ...]:
        """The paths that are read. 404 from one of them: the server is of another generation."""

    def entries(self, answers: Sequence[Any]) -> tuple[Entry, ...]:
        """Raises `Unexpected` where an answer has not the form it must have."""
