"""The client of Headscale's API, for every generation of it.

Which generation a server is of is asked, not configured, and asked again when an answer does not fit: so a server may
be upgraded under a running daemon. What differs between generations is in `control/`.

Approving is one loop: read all nodes, ask each one's `Entry` what of its wish is missing, write that, and read again;
it ends when nothing is missing. So nothing is written that is there already, what was written is verified by a fresh
reading, and somebody who wrote in between costs a round. For many nodes a round is one reading and all writes side by
side, which Headscale from 0.29 on gathers and answers together, after about a second.

A node is recognised by its id *and* its key, because a deleted node's id is given to another one. When two callers of
one client approve at once, one waits: else their lists would overwrite each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble
from reconciler.mesh.control.api import MAX_CONNECTIONS, TIMEOUT, Answer, Api
from reconciler.mesh.control.backend import Backend, Entry, Generation, Post, Wish
from reconciler.mesh.control.probe import probe
from reconciler.mesh.control.shapes import Unexpected
from reconciler.mesh.model import ControlNode
from reconciler.settings import Network

ROUNDS = 3  # of writing, before somebody else is taken to work against us
_NO_SUCH = ("not found", "no longer exists")
_POLICY = "/api/v1/policy"

Outcome = ControlNode | Refusal


class HeadscaleClient:
    """`url` as `reconciler.mesh.url.check_url` gives it."""

    def __init__(
        self, url: str, key: Callable[[], str | Refusal], ca_file: Path | None = None, timeout: float = TIMEOUT
    ) -> None:
        self._api = Api(url, key, ca_file, timeout)
        self._backend: Backend | None = None
        self._approving = asyncio.Lock()

    async def close(self) -> None:
        await self._api.close()

    async def generation(self) -> Generation | Refusal:
        backend = await self._probed()
        return backend if isinstance(backend, Refusal) else backend.generation

    async def nodes(self) -> tuple[ControlNode, ...] | Refusal:
        entries = await self._entries()
        return entries if isinstance(entries, Refusal) else tuple([entry.node for entry in entries])

    # --- approving

    async def approve(
        self, node: ControlNode, wanted: Collection[Network], unwanted: Collection[Network] = (), again: bool = False
    ) -> Outcome:
        return (await self.approve_many([Wish(node, frozenset(wanted), frozenset(unwanted), again)]))[0]

    async def approve_many(self, wishes: Sequence[Wish]) -> tuple[Outcome, ...]:
        """For each wish its node as it is then, or why not. At most one wish for a node."""
        outcomes: dict[int, Outcome] = {}
        pending = dict(enumerate(wishes))
        async with self._approving:
            for writing in (*[True] * ROUNDS, False):
                settled, posts = await self._settle(pending)
                outcomes |= settled
                if not posts:
                    break
                pending = {number: replace(pending[number], again=False) for number in posts}
                failed = await self._write(posts) if writing else {n: _undone(pending[n].node) for n in posts}
                outcomes |= failed
                pending = {number: wish for number, wish in pending.items() if number not in failed}
        return tuple([outcomes[number] for number in range(len(wishes))])

    async def _settle(self, wishes: Mapping[int, Wish]) -> tuple[dict[int, Outcome], dict[int, tuple[Post, ...]]]:
        """One reading: what has come true, or never will, and what is to be written for the rest."""
        settled: dict[int, Outcome] = {}
        posts: dict[int, tuple[Post, ...]] = {}
        entries = await self._entries() if wishes else ()
        if isinstance(entries, Refusal):
            return dict.fromkeys(wishes, entries), posts
        known = {(entry.node.id, entry.node.key): entry for entry in entries}
        for number, wish in wishes.items():
            entry = known.get((wish.node.id, wish.node.key))
            if entry is None:
                settled[number] = _gone(wish.node)
            elif missing := entry.posts(wish):
                posts[number] = missing
            else:
                settled[number] = entry.refusal(wish) or entry.node
        return settled, posts

    async def _write(self, posts: Mapping[int, Sequence[Post]]) -> dict[int, Refusal]:
        """Those that were refused. What Headscale does not find is not: the next reading says what became of it."""
        gate = asyncio.Semaphore(MAX_CONNECTIONS)

        async def write(number: int, post: Post) -> tuple[int, Answer | Refusal]:
            async with gate:
                return number, await self._api.call("POST", post.path, post.body)

        answers = await asyncio.gather(*[write(number, post) for number, each in posts.items() for post in each])
        failed: dict[int, Refusal] = {}
        for number, answer in answers:
            if isinstance(answer, Refusal):
                failed[number] = answer
            elif answer.status not in (200, 404) and not any(words in answer.words for words in _NO_SUCH):
                failed[number] = answer.refusal(self._api.url)
        return failed

    # --- reading

    async def _probed(self) -> Backend | Refusal:
        if self._backend is None:
            found = await probe(self._api)
            if isinstance(found, Refusal):
                return found
            self._backend = found
        return self._backend

    async def _entries(self) -> tuple[Entry, ...] | Refusal:
        known = self._backend is not None
        entries = await self._read()
        if self._backend is None and known:  # another generation than before
            entries = await self._read()
        return entries

    async def _read(self) -> tuple[Entry, ...] | Refusal:
        """Forgets the generation where an answer does not fit it."""
        backend = await self._probed()
        if isinstance(backend, Refusal):
            return backend
        answers = await asyncio.gather(*[self._api.call("GET", path) for path in backend.questions])
        for answer in answers:
            if isinstance(answer, Refusal):
                return answer
            if answer.status == 404:
                self._backend = None
            if answer.status != 200:
                return answer.refusal(self._api.url)
        try:
            return backend.entries([answer.data for answer in answers if isinstance(answer, Answer)])
        except Unexpected as error:
            self._backend = None
            asked = " and ".join(backend.questions)
            what = f"Headscale at {self._api.url} gave an answer to {asked} that cannot be used: {error}"
            return Refusal(Trouble.HEADSCALE_ANSWER, what, "see that nothing else answers in Headscale's place")

    # --- policy

    async def policy(self) -> str | Refusal:
        """Its text; empty where there is none."""
        answer = await self._api.call("GET", _POLICY)
        if isinstance(answer, Refusal):
            return answer
        if answer.status == 200 and isinstance(answer.data, dict) and isinstance(answer.data.get("policy"), str):
            return str(answer.data["policy"])
        return "" if "policy not found" in answer.words else self._policy_refusal(answer)

    async def set_policy(self, text: str) -> Refusal | None:
        answer = await self._api.call("PUT", _POLICY, {"policy": text})
        if isinstance(answer, Refusal):
            return answer
        return None if answer.status == 200 else self._policy_refusal(answer)

    def _policy_refusal(self, answer: Answer) -> Refusal:
        by_hand = "add the autoApprovers to the policy file by hand, and reload Headscale"
        if answer.status == 404:
            what = f"Headscale at {self._api.url} has no policy in its API (that came after 0.22)"
            return Refusal(Trouble.HEADSCALE_POLICY, what, by_hand)
        if "update is disabled" in answer.words:
            what = f"Headscale at {self._api.url} reads its policy from a file (policy.mode is not database)"
            return Refusal(Trouble.HEADSCALE_POLICY, what, by_hand)
        return answer.refusal(self._api.url)


def _gone(node: ControlNode) -> Refusal:
    what = f"Headscale has no node {node.id} with the key of {node.name} any more"
    return Refusal(Trouble.NODE_DELETED, what, "it was deleted, or joined anew; look again who it is now")


def _undone(node: ControlNode) -> Refusal:
    what = f"what was approved for {node.name} (node {node.id}) was not kept, {ROUNDS} times"
    return Refusal(Trouble.HEADSCALE_ANSWER, what, "somebody else writes its routes: let only one approve them")
