"""From files to a running engine, and from time to time again: what do the records say, and what does the kernel?

At the start every record is read and its addresses are claimed before any intent is looked at, so none is given
twice. Then records and kernel are compared in one pass: one dump of links and one look at each namespace, not ten
thousand questions; the pure `plan_restart` says what is to be done with each. The audit repeats that pass each
minute, for the records nobody is working on: a pod whose namespace vanished without a DEL is collected, a link that
somebody deleted is made again.

An orphan is a link of ours that no record explains; it is deleted, unless a record of that name is in quarantine or of
a newer version: then a pod may live behind it, so it stays, and its addresses stay taken.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable

from reconciler.desk import Desk, unreadable
from reconciler.engine import Engine
from reconciler.ipam.ledger import Ledger
from reconciler.ipam.pool import Address
from reconciler.ports import Wiring
from reconciler.store import Store
from reconciler.wiring.plan import host_name
from statemachine.attachment import Attachment, State
from statemachine.intent import Intent
from statemachine.machine import Resume
from statemachine.replay import World, plan_restart

log = logging.getLogger("headcni")

COOLING_LOOKBACK = 1000  # closed records looked at; their names are in order of a wall clock that may have jumped


class Recovery:
    def __init__(
        self,
        desk: Desk,
        engine: Engine,
        store: Store,
        ledger: Ledger,
        wiring: Wiring,
        boot_id: str,
        warn: Callable[[str, str], None],
    ) -> None:
        self._desk = desk
        self._engine = engine
        self._store = store
        self._ledger = ledger
        self._wiring = wiring
        self._boot_id = boot_id
        self._warn = warn

    def load(self) -> int:
        for record in self._store.load():
            self._desk.records[record.key] = record
            if record.state is not State.TORN_DOWN:  # those have released theirs already
                self._claim(record.key, [each.ip for each in record.addresses])
        for key, addresses in self._store.salvaged(self._boot_id):
            self._claim(unreadable(key), addresses)
        self._cool()
        for each in self._store.left_alone:
            self._warn(f"unreadable {each.path}", f"{each.path}: {each.reason}")
        return len(self._desk.records)

    def _cool(self) -> None:
        """What was released so lately that it may still rest."""
        torn_down = [each for each in self._desk.records.values() if each.state is State.TORN_DOWN]
        for closed in (*torn_down, *itertools.islice(self._store.recently_closed(), COOLING_LOOKBACK)):
            if closed.boot_id == self._boot_id and closed.closed_mono is not None:
                for each in closed.addresses:
                    self._ledger.cool(each.ip, closed.closed_mono)

    def compare(self, waiting: Iterable[Intent] = ()) -> None:
        """Links are listed before records are read: whatever is made meanwhile has a record already."""
        links = self._wiring.links()
        names = {key: _link_of(record) for key, record in self._desk.records.items()}
        idle = [record for record in self._desk.records.values() if not self._engine.working_on(record.key)]
        world = World(
            boot_id=self._boot_id,
            namespace_alive={record.key: self._desk.namespace_alive(record) for record in idle if record.netns},
            link_present={record.key: names[record.key] in links for record in idle},
            pending_adds=frozenset(i.key for i in waiting if i.verb == "ADD" and not self._desk.expired(i)),
        )
        for record in idle:
            event = plan_restart(record, world)
            if isinstance(event, Resume) and self._engine.retrying(record.key):
                continue  # its worker knows better when the next try is due
            if event is not None:
                log.info("resumed key=%s state=%s event=%s", record.key, record.state, event)
                self._engine.post(record.key, event)
        self._remove_orphans(links - set(names.values()))

    def _claim(self, key: str, addresses: Iterable[Address]) -> None:
        for clash in self._ledger.claim(key, addresses):
            self._ledger.share(key, clash.address)
            self._warn(f"clash {key}", f"{key} and {clash.holder} both hold {clash.address}; delete one of the pods")

    def _remove_orphans(self, orphans: frozenset[str]) -> None:
        if not orphans:
            return
        protected = {host_name(key): key for key in self._store.unreadable_keys()}
        for link in orphans:
            if link not in protected:
                log.warning("orphan link=%s: no record explains it; deleting it", link)
                self._engine.unwire_orphan(link)
                continue
            addresses = self._wiring.addresses_behind(link)
            self._claim(unreadable(protected[link]), addresses)
            self._warn(
                f"kept {link}",
                f"the record of {protected[link]} cannot be read; its link {link} and its addresses are kept",
            )


def _link_of(record: Attachment) -> str:
    return "" if record.goal is State.ALLOCATED else host_name(record.key)
