"""The Kubernetes API as the rest of the daemon sees it. One real and one stand-in implementation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from cni.spec import Refusal

Object = Mapping[str, Any]  # as parsed from JSON
Keep = Callable[[Object], Any]  # what is kept of an object as soon as it has come; None: nothing


class Patch(StrEnum):
    JSON = "application/json-patch+json"
    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"


class What(StrEnum):
    LISTED = "listed"  # the whole list, in `objects`; what is not in it is gone
    CHANGED = "changed"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class HttpRefusal(Refusal):
    """By an answer of the server."""

    status: int = 0
    retry_after: float = 0.0  # seconds, if the server said so


@dataclass(frozen=True, slots=True)
class Seen:
    what: What
    objects: tuple[Any, ...]  # what was kept of each


class Api(Protocol):
    """One authenticated way to an API server. Blocking work is done off the event loop; every call has a bound."""

    @property
    def endpoint(self) -> str:
        """For people: what is dialled, and with whose credentials."""

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Any | Refusal: ...

    async def create(self, path: str, body: Object) -> Any | Refusal: ...

    async def replace(self, path: str, body: Object) -> Any | Refusal: ...

    async def patch(self, path: str, body: Any, kind: Patch) -> Any | Refusal: ...

    def watch(
        self, path: str, query: Mapping[str, str] | None = None, keep: Keep = lambda found: found
    ) -> AsyncIterator[Seen | Refusal]:
        """For ever: lists, then watches; resumes, lists again after 410. A refusal tells why it is not up to date."""

    def begin_anew(self) -> None:
        """Each watch goes on over a new connection: after an outage an old one may be dead, and nobody is told."""

    async def close(self) -> None: ...
