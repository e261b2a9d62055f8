"""The real parts put together: a `Finder` over real candidates, clients and questions.

What imports urllib3 and the package `kubernetes` is imported when the first candidate is dialled, in a thread: who
does without the API never pays for it, and the event loop goes on meanwhile.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from cni.spec import Refusal
from reconciler.config import Config
from reconciler.kube import surroundings
from reconciler.kube.candidates import KUBELETS, SERVICE_ACCOUNT, Candidate, Surroundings, candidates
from reconciler.kube.codes import Trouble
from reconciler.kube.finder import Finder, Means, Reaching
from reconciler.kube.names import Names
from reconciler.kube.ports import HttpRefusal
from reconciler.node import files
from reconciler.threads import Threads

if TYPE_CHECKING:
    from reconciler.kube.access import Access
    from reconciler.kube.client import Client

LOOK = 2.0  # seconds, for files and processes
PROCESSES = 60.0  # between two looks at all processes, unless a file came or went; such a look costs as much as a probe
OPEN = 20.0  # for a candidate's files, an exec plugin that takes all its time, and the first import
PROBE = 2.0
TOO_MANY = 429
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


def make_finder(
    config: Callable[[], Config],
    node: str,
    publish: Callable[[Reaching], None],
    environ: Mapping[str, str] = os.environ,
) -> Finder[Client]:
    """`config` is asked at each search. Call it inside the event loop."""
    threads, names, seen = Threads(), Names(), _Seen()

    async def listed() -> tuple[Candidate, ...]:
        nonlocal seen
        with suppress(TimeoutError):  # a file system hangs; the ways that were there may work as before
            seen = await threads.run(lambda: _look(seen, environ, config().node_root), LOOK)
        return candidates(config(), seen.surroundings)

    async def opened(candidate: Candidate) -> Client | Refusal:
        try:
            return await dial(candidate, config(), threads, names, told=lambda refusal: finder.doubt(candidate))
        except TimeoutError:
            what = f"{candidate}: its files could not be read within {OPEN:g} s"
            return Refusal(Trouble.API_KUBECONFIG, what, "see the file system they are on")

    async def checked(client: Client) -> Refusal | None:
        refusal = await may_read_node(client, node)
        busy = isinstance(refusal, HttpRefusal) and refusal.status == TOO_MANY
        return None if busy else refusal  # it leads there, and another one would lead to the same server

    finder: Finder[Client] = Finder(Means(listed, opened, checked, publish))
    return finder


@dataclass(frozen=True, slots=True)
class _Seen:
    surroundings: Surroundings = field(default_factory=Surroundings)
    files: tuple[Path, ...] | None = None  # that were there
    until: float = 0.0


def _look(before: _Seen, environ: Mapping[str, str], root: Path) -> _Seen:
    """Blocking."""
    known = *(files.below(root, str(each)) for each in KUBELETS), SERVICE_ACCOUNT / "token"
    there = tuple([each for each in known if os.path.lexists(each)])
    if there == before.files and time.monotonic() < before.until:
        return before
    return _Seen(surroundings.look(environ, root), there, time.monotonic() + PROCESSES)


async def dial(
    candidate: Candidate,
    config: Config,
    threads: Threads,
    names: Names,
    told: Callable[[Refusal], None] = lambda refusal: None,
) -> Client | Refusal:
    """Nothing is sent yet. TimeoutError: a file system hangs."""

    def opening() -> Client | Refusal:
        try:
            from reconciler.kube.calls import Calls
            from reconciler.kube.client import Client
            from reconciler.kube.opening import open_access
        except ModuleNotFoundError as missing:
            return not_installed(missing)

        def again() -> Access | Refusal:
            return open_access(candidate, config.service_cidrs, config.node_root)

        access = again()
        return access if isinstance(access, Refusal) else Client(Calls(access, again, names, time.time), threads, told)

    return await threads.run(opening, OPEN)


def not_installed(missing: ModuleNotFoundError) -> Refusal:
    """The extra of this package is not there. A module of our own that is missing is a fault."""
    package = (missing.name or "reconciler").partition(".")[0]
    if package == "reconciler":
        raise missing
    what = f"the API cannot be asked: the Python package {package!r} is not installed"
    return Refusal(Trouble.API_PACKAGE, what, "pip install 'headcni[kube]' for this Python; or set kube.mode to off")


async def may_read_node(client: Client, node: str) -> Refusal | None:
    """One question that tells whether the way, its certificates, the credentials and the rights are as they must be."""
    from reconciler.kube.transport import Request

    asked = {"verb": "get", "resource": "nodes", "name": node}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    answer = await client.ask(Request("POST", REVIEWS, body=orjson.dumps(body)), PROBE)
    if isinstance(answer, Refusal):
        return answer
    status = answer.get("status")
    if isinstance(status, Mapping) and status.get("allowed") is True:
        return None
    what = f"{client.endpoint}: this account may not get Node {node}"
    rule = '- {apiGroups: [""], resources: ["nodes"], verbs: ["get"]}'
    return Refusal(Trouble.API_FORBIDDEN, what, f"add to a ClusterRole that is bound to it: {rule}")
