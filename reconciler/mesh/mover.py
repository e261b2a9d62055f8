"""Moving attachments when the mesh's conclusions change: to advertised at once, from advertised after a moment.

The moment is for tailscaled's restarts, which take a second or three: moving a hundred records to and fro, each a file
written, would tell nobody anything. What stays hidden is moved well within the five seconds a shown state may be old.

A record is judged once by the same conclusions; looking again at hundreds of them each second costs nothing then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cni.spec import Refusal
from reconciler.mesh.advertiser import MeshAdvertiser
from reconciler.mesh.model import Chain
from statemachine.attachment import Attachment, State
from statemachine.machine import Event, Hidden, Resume, Step

PATIENCE = 3.0  # seconds


class Mover:
    def __init__(
        self,
        advertiser: MeshAdvertiser,
        records: Callable[[], Mapping[str, Attachment]],
        post: Callable[[str, Event], None],
    ) -> None:
        self._advertiser = advertiser
        self._records = records
        self._post = post
        self._hidden_since: float | None = None
        self._chains: tuple[Chain, ...] | None = None
        self._judged: dict[str, tuple[Attachment, Refusal | None]] = {}  # by these chains

    def look(self, now: float) -> None:
        """After each change of the advertiser's chains, and each second while something is hidden."""
        self._judge()
        hidden = False
        for record, refusal in self._judged.values():
            if record.state is State.ADVERTISED and refusal is not None:
                hidden = True
                self._hide(record, refusal, now)
            elif record.state is State.WIRED and _waits(record) and refusal is None:
                self._post(record.key, Resume())
        if not hidden:
            self._hidden_since = None

    def _judge(self) -> None:
        before = self._judged if self._chains is self._advertiser.chains else {}
        self._chains = self._advertiser.chains
        self._judged = {}
        for key, record in self._records().items():
            known = before.get(key)
            if known is None or known[0] is not record:
                known = record, self._advertiser.missing(record)
            self._judged[key] = known

    def _hide(self, record: Attachment, refusal: Refusal, now: float) -> None:
        if self._hidden_since is None:
            self._hidden_since = now
        if now - self._hidden_since >= PATIENCE:
            self._post(record.key, Hidden(refusal))


def _waits(record: Attachment) -> bool:
    return record.problem is not None and record.problem.step == Step.ADVERTISE.value
