"""The daemon's part in the directory of network configurations: it looks every few seconds while the node is ready.

The file appears when the daemon is ready for the first time, and stays when it stops: STATUS tells the runtime then.
Meanwhile it follows its template, and is put back when somebody changes it. What is decided is in `conflist.py`; here
it is seen and done, in a worker thread, so that no pod waits for a slow disk.

The new file is drafted before anything is set aside: a full disk costs nobody his network.

Pods come with the file. So where the pod CIDR is only a guess yet, the first one waits for the API's word, as long as
that is likely to come: a pod with an address that is another node's is worse than one that starts later. Not for ever,
for the API may itself be a pod that waits for the network; and not where the file is there already.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cni.spec import Refusal
from reconciler.config import Config
from reconciler.install import place, record, seen, template
from reconciler.install.codes import Trouble
from reconciler.install.conflist import Adopt, Remove, SetAside, Step, Wish, Write, decide, recorded
from reconciler.install.fights import Fights
from reconciler.install.record import InstallRecord
from reconciler.node import files
from reconciler.operate.log import Once
from reconciler.store import Store

log = logging.getLogger("headcni")

WAIT_SECONDS = 0.5  # for a daemon that is not ready
LOOK_SECONDS = 2.0
GUESS_SECONDS = 15.0  # reaching the API takes one or two
MODE = 0o600
KEY = "cni.confDir"


@dataclass(frozen=True, slots=True)
class Round:
    done: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()


class ConflistKeeper:
    def __init__(
        self,
        config: Callable[[], Config],
        store: Store,
        ready: Callable[[], bool],
        warnings: Once,
        changed: Callable[[], None],
        guesses: Callable[[], bool] = lambda: False,  # at the pod CIDR, and somebody is asked who knows
    ) -> None:
        self._config = config
        self._store = store
        self._ready = ready
        self._warnings = warnings
        self._changed = changed
        self._guesses = guesses
        self._since: float | None = None  # when the node was ready for the first time
        self._fights = Fights()
        self._said: Mapping[str, Refusal] = {}

    async def run(self) -> None:
        while True:
            if not self._ready() or self._waits(time.monotonic()):
                await asyncio.sleep(WAIT_SECONDS)
                continue
            self._tell(await asyncio.to_thread(self.look, time.monotonic()))
            await asyncio.sleep(LOOK_SECONDS)

    def _waits(self, now: float) -> bool:
        self._since = now if self._since is None else self._since
        config = self._config()
        patient = self._guesses() and now - self._since < GUESS_SECONDS
        return patient and not (config.cni_conf_dir / config.cni_conf_file).exists()

    def look(self, now: float) -> Round:
        """And do what is to be done."""
        config = self._config()
        if config.cni_template is None:
            return Round()
        content = _template(config.cni_template, config.state_dir)
        if isinstance(content, Refusal):
            return Round(refusals=(content,))
        told = record.load(self._store)
        refusals = [told.trouble] if told.trouble else []
        if told.record is None:
            return Round(refusals=tuple(refusals))
        path = f"{config.cni_conf_dir}/{config.cni_conf_file}"
        wish = Wish(path, place.digest(content), str(config.state_dir), config.cni_set_aside)
        present, asides = seen.look(config.cni_conf_dir)
        decision = decide(wish, present, told.record, asides)
        steps, lost = self._peaceful([step for step in decision.steps if _in_sight(step)], now)
        made = perform(self._store, config.cni_conf_dir, steps, content)
        for step in steps if not made.refusals else ():
            self._fights.did(step.path, _what(step))
        return Round(made.done, (*refusals, *decision.refusals, *lost, *made.refusals))

    def _peaceful(self, steps: Sequence[Step], now: float) -> tuple[list[Step], list[Refusal]]:
        lost = {step: self._fights.lost(step.path, _what(step), now) for step in steps}
        return [step for step in steps if lost[step] is None], [each for each in lost.values() if each]

    def _tell(self, told: Round) -> None:
        for line in told.done:
            log.info("conflist: %s", line)
        said = {f"conflist {each.msg}": each for each in told.refusals}
        for key in self._said.keys() - said.keys():
            self._warnings.clear(key)
        for key, each in said.items():
            self._warnings.warn(key, f"{each.msg} (code {each.code:d}); {each.details}")
        if said != self._said:
            self._said = said
            self._changed()


def _template(file: Path, state_dir: Path) -> bytes | Refusal:
    read = files.read_all(Path("/"), [str(file)])
    return template.check(file, read[str(file)], state_dir)


def _in_sight(step: Step) -> bool:
    """Where cni.confDir was changed, a container does not see the former one: the record keeps what is left there."""
    return not isinstance(step, Remove) or Path(step.path).parent.is_dir()


def _what(step: Step) -> str:
    return step.digest if isinstance(step, Write | Adopt) else type(step).__name__


def perform(store: Store, directory: Path, steps: Sequence[Step], content: bytes) -> Round:
    """Each step may be repeated, so after a kill the next look does the rest."""
    if not steps:
        return Round()
    if refusal := record.update(store, lambda now: recorded(now, steps)):
        return Round(refusals=(refusal,))
    done: list[str] = []
    try:
        for step in steps:
            if isinstance(step, Write):
                place.draft(Path(step.path), content, MODE)
        for step in steps:
            done += _perform(step)
        place.sync(directory)
    except OSError as error:
        return Round(tuple(done), (place.unusable(Trouble.CONF_DIR, KEY, directory, error),))
    refusal = record.update(store, lambda now: _forgotten(now, steps))
    return Round(tuple(done), (refusal,) if refusal else ())


def _perform(step: Step) -> Iterator[str]:
    path = Path(step.path)
    match step:
        case SetAside():
            os.rename(path, place.aside_of(path))
            yield f"set {path} aside, as {place.aside_of(path).name}"
        case Write(why=why):
            place.commit(path)
            yield f"wrote {path}: {why}"
        case Remove(digests=digests) if place.digest_at(path) in digests:
            path.unlink()
            yield f"removed {path}: the network configuration has another name now"
        case Remove():
            yield f"left {path}: it is another one now"


def _forgotten(now: InstallRecord, steps: Sequence[Step]) -> InstallRecord:
    for step in steps:
        if isinstance(step, Remove):
            now = now.without_conflist(step.path)
    return now
