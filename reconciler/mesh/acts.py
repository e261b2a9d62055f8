"""Acting on the mesh: joining, preferences, announcing, approving, mending. Each is "make it so", bounded, and told.

What is to be done is decided elsewhere, by pure functions; here it is done in the order that a kill may interrupt
anywhere: the record is on the disk before the announcement or the preference that it speaks of, and forgets only what
was seen to be withdrawn. Each method leaves what it could not do in `troubles`, by its kind, until it can.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cni.spec import Refusal
from reconciler.config import Config
from reconciler.mesh import announce, join, preferences, record
from reconciler.mesh.budget import Budget
from reconciler.mesh.codes import Trouble
from reconciler.mesh.localapi_decode import unsuitable
from reconciler.mesh.look import Looker
from reconciler.mesh.model import Prefs, Tailnet
from reconciler.mesh.networks import within
from reconciler.mesh.ports import Headscale, Tailscaled
from reconciler.mesh.repair import Act, Mend
from reconciler.mesh.secrets import AUTH_KEY, have_key, read_key
from reconciler.observe import Observer
from reconciler.settings import Network
from reconciler.store import Store

log = logging.getLogger("headcni")

STEPS = 12  # of announcing in one turn: enough for all, and an end if somebody writes against us
ECHO_SECONDS = 0.5
LAST_THINGS = 50
LOGIN_SECONDS = 15.0  # without a word, before it counts as refused
APART = 0.3  # seconds, so that nobody takes two changes for none
PASSING = (Trouble.TAILSCALED_UNREACHABLE, Trouble.TAILSCALED_ANSWER)  # what may be over in a moment


@dataclass(frozen=True, slots=True)
class Outside:
    tailscaled: Tailscaled
    headscale: Headscale | None  # None: no key on this node
    observer: Observer


class Actor:
    def __init__(self, out: Outside, store: Store, looker: Looker, config: Callable[[], Config]) -> None:
        self._out = out
        self._store = store
        self._looker = looker
        self._config = config
        self._attempts = join.JoinAttempts()
        self._tug = preferences.Tug()
        self._told = record.Loaded(None)
        self._standing: frozenset[Network] = frozenset()  # what we wrote; if it is to be written again, it was removed
        self._again = Budget(3, 600.0)
        self._written: deque[announce.Routes] = deque(maxlen=64)  # as the bus told of them
        self._heard_write = asyncio.Event()
        self.login_error = ""
        self.settling = False
        self.troubles: dict[str, Refusal] = {}
        self.done: deque[str] = deque(maxlen=LAST_THINGS)

    def load(self) -> None:
        self._told = record.load(self._store)
        self.note("record", self._told.trouble)

    def heard_routes(self, routes: announce.Routes) -> None:
        self._written.append(routes)
        self._heard_write.set()

    def reset(self) -> None:
        """An operator says: try again."""
        self._attempts = join.JoinAttempts()
        self._tug.reset()
        self._again.reset()

    # --- joining

    async def be_member(self) -> Refusal | None:
        """Why this node is no working member of our tailnet; None: it is one."""
        self.settling = False
        tailnet, prefs = self._looker.tailnet, self._looker.prefs
        if isinstance(tailnet, Refusal):
            return tailnet
        if isinstance(prefs, Refusal):
            return prefs
        refusal = unsuitable(tailnet)
        if refusal is not None:
            return refusal
        config = self._config()
        wish = join.JoinWish(config.headscale_url, config.tailscale_hostname, config.tailscale_tags, config.accept_dns)
        with_key = have_key(AUTH_KEY.variable, config.auth_key_file)
        decision = join.decide_join(tailnet, prefs, wish, with_key, self._looker.wall())
        match decision:
            case join.Joined():
                self._attempts, self.login_error = join.JoinAttempts(), ""
                refusal = self._moved_with(prefs, wish.url)
                if refusal is not None:
                    return refusal
                return None if tailnet.running else _stopped(tailnet)
            case join.Wait(why, trouble):
                return trouble or self._settling(f"not joined yet: {why}")
            case join.Stuck(why):
                return why
            case join.Join():
                required = {each.name: each.value for each in preferences.required(config.accept_dns)}
                wished = join.joining_prefs(prefs.raw, wish, required)
                return await self._start(prefs, wished, wish.url, None)
            case join.Rejoin(why):
                return await self._start(prefs, None, prefs.control_url, why)

    def _settling(self, what: str) -> Refusal:
        """Not joined yet, and nothing is wrong with that."""
        self.settling = True
        return Refusal(Trouble.NOT_JOINED, what, "wait; it takes seconds")

    def _moved_with(self, prefs: Prefs, url: str) -> Refusal | None:
        """headscale.url was changed, and tailscaled with it: what is ours there is still ours."""
        ours = self._told.record
        if ours is None or not url or ours.written_for(prefs.control_url):
            return None
        return self._keep(replace(ours, control_url=prefs.control_url))

    async def _start(
        self, prefs: Prefs, wished: Mapping[str, Any] | None, url: str, why: Refusal | None
    ) -> Refusal | None:
        key = read_key(AUTH_KEY.variable, self._config().auth_key_file)
        if isinstance(key, Refusal):
            return key
        now = self._looker.now()
        if not self._attempts.may_try(key, now):
            return self._tried(url, now, why)
        if wished is not None:
            refusal = self._remember_prefs(prefs, url, joining=True)
            if refusal is not None:
                return refusal
            for name, value in wished.items():
                if prefs.raw.get(name) != value and name not in ("ControlURL", "WantRunning", "LoggedOut"):
                    self._did(f"joining with {name} {_word(value)}, which was {_word(prefs.raw.get(name))}")
        self._attempts = self._attempts.tried(key, now)
        self.login_error = ""
        self._did(f"joining {url}" + (f" again: {why.msg}" if why else ""))
        refusal = await self._out.tailscaled.start(key, wished)
        return refusal or why or self._settling(f"joining {url}")

    def _tried(self, url: str, now: float, why: Refusal | None) -> Refusal:
        assert not isinstance(self._looker.tailnet, Refusal)
        words = self.login_error or join.last_login_error(self._looker.tailnet.health)
        if not words and now - self._attempts.at < LOGIN_SECONDS:
            return why or self._settling(f"joining {url}")
        return join.key_refused(url, words)

    # --- preferences

    async def set_preferences(self) -> None:
        prefs = self._looker.prefs
        if isinstance(prefs, Refusal) or (self._told.record and not self._told.record.written_for(prefs.control_url)):
            return  # of another profile: `keep_announced` says so
        config = self._config()
        found = preferences.differences(prefs, config.accept_dns)
        if not config.repair_preferences:
            self.note("preferences", _left_alone(found) if found else None)
            return
        verdict = self._tug.judge(found, self._looker.now())
        self.note("preferences", verdict.fights[0] if verdict.fights else None)
        if not verdict.repair:
            return
        refusal = self._remember_prefs(prefs, prefs.control_url)
        if refusal is None:
            edited = await self._out.tailscaled.edit({each.name: each.must for each in verdict.repair})
            refusal = edited if isinstance(edited, Refusal) else None
            if isinstance(edited, Prefs):
                self._looker.prefs = edited
                self._tug.repaired(verdict.repair)
                for each in verdict.repair:
                    self._did(f"set {each.name} from {_word(each.now)} to {_word(each.must)}: {each.reason}")
        if refusal is not None:
            self.note("preferences", refusal)

    def _remember_prefs(self, prefs: Prefs, url: str, joining: bool = False) -> Refusal | None:
        """Of a node that was not joined, accept-dns had no effect; put back into one that is, it takes away the node's
        name servers."""
        if self._told.record is None:
            return self._told.trouble
        found = preferences.differences(prefs, self._config().accept_dns)
        if joining:
            found = tuple(each for each in found if each.name != "CorpDNS")
        return self._keep(preferences.remembered(self._told.record, found, url))

    # --- announcing

    async def keep_announced(self, wanted: frozenset[Network]) -> None:
        """Until the list is as wanted, or somebody must do something about it."""
        for _ in range(STEPS):
            prefs = self._looker.prefs
            if isinstance(prefs, Refusal) or self._told.record is None:
                return
            step = announce.next_step(prefs, self._told.record, wanted)
            match step:
                case None:
                    self.note("announcing", None)
                    return
                case Refusal():
                    refusal: Refusal | None = step
                case announce.Write(kept) | announce.Forget(kept):
                    refusal = self._keep(kept)
                case announce.Edit(change):
                    refusal = await self._edit_routes(change, wanted)
            if refusal is not None:
                self.note("announcing", refusal)
                return
        self.note("announcing", _contested(wanted))

    async def _edit_routes(self, change: announce.Merge, wanted: frozenset[Network]) -> Refusal | None:
        """Read, merge, write; and once more, if somebody wrote between our reading and our writing."""
        self._written.clear()
        fresh = await self._out.tailscaled.prefs()
        if isinstance(fresh, Refusal):
            return fresh
        assert self._told.record is not None
        recorded = self._told.record.announced
        change = announce.merge(fresh.advertise, wanted & recorded, recorded)
        if self._standing.intersection(change.add) and not self._again.take(self._looker.now()):
            return _contested(change.add)
        edited = await self._out.tailscaled.edit({"AdvertiseRoutes": list(change.routes)})
        if isinstance(edited, Refusal):
            return edited
        self._standing = self._standing.union(change.add).difference(change.withdraw)
        for verb, networks in (("announced", change.add), ("withdrew", change.withdraw)):
            if networks:
                self._did(f"{verb} {', '.join(map(str, networks))}")
        again = await self._lost(fresh.advertise, change.routes)
        if again is not None:
            self._did("somebody wrote AdvertiseRoutes at the same time: put their change back")
            edited = await self._out.tailscaled.edit({"AdvertiseRoutes": list(again)})
        if isinstance(edited, Refusal):
            return edited
        self._looker.prefs = edited
        return None

    async def _lost(self, read: announce.Routes, wrote: announce.Routes) -> announce.Routes | None:
        """The bus tells of our own write, too, and of what came before it; if it does so soon."""
        try:
            async with asyncio.timeout(ECHO_SECONDS):
                while wrote not in self._written:
                    self._heard_write.clear()
                    await self._heard_write.wait()
        except TimeoutError:
            return None
        return announce.lost_between(read, list(self._written), wrote)

    def _keep(self, fresh: record.MeshRecord) -> Refusal | None:
        if fresh == self._told.record:
            return None
        refusal = record.save(self._store, fresh)
        if refusal is None:
            self._told = record.Loaded(fresh)
        return refusal

    @property
    def ours(self) -> frozenset[Network]:
        """What the record says that we announced."""
        return self._told.record.announced if self._told.record else frozenset()

    # --- mending

    async def mend(self, mend: Mend, wanted: frozenset[Network]) -> None:
        work = {
            Act.REFRESH: self._refresh,
            Act.APPROVE: self._approve,
            Act.REANNOUNCE: self._announce_again,
            Act.TOGGLE: self._toggle,
        }[mend.act]
        what = f" {', '.join(map(str, mend.prefixes[:5]))}" if mend.prefixes else ""
        self._did(f"{mend.act}{what}: {mend.why}")
        self._out.observer.mesh_repair(mend.act.value)
        self.note(mend.act.value, await work(mend, wanted))

    async def _refresh(self, _: Mend, __: frozenset[Network]) -> Refusal | None:
        return await self._looker.refresh()

    async def _approve(self, mend: Mend, wanted: frozenset[Network]) -> Refusal | None:
        """Approvals of earlier pod CIDRs of this node pile up; they go with the first that is missing."""
        own = self._looker.seen().own
        if own is None or self._out.headscale is None:
            return None
        stale = within(own.approved - own.announced - wanted, self._config().cluster_cidrs)
        approved = await self._out.headscale.approve(own, mend.prefixes, stale)
        if isinstance(approved, Refusal):
            return approved
        await self._looker.headscale(self._out.headscale)
        return None

    async def _announce_again(self, mend: Mend, wanted: frozenset[Network]) -> Refusal | None:
        """With a key: approved again, beside the turn, so what is announced must not be touched here."""
        if self._out.headscale is not None:
            own = self._looker.seen().own
            approved = await self._out.headscale.approve(own, mend.prefixes, again=True) if own is not None else None
            return approved if isinstance(approved, Refusal) else None
        for routes in (wanted.difference(mend.prefixes), wanted):
            await self.keep_announced(routes)
            await asyncio.sleep(APART)
        return None

    async def _toggle(self, _: Mend, __: frozenset[Network]) -> Refusal | None:
        """Remembered while it lasts: after a kill in between, the next turn sets it again, or leaving does."""
        before, prefs = self._told.record, self._looker.prefs
        if before is None or isinstance(prefs, Refusal):
            return self._told.trouble
        off = preferences.Difference("RouteAll", True, False, "")
        refusal = self._keep(preferences.remembered(before, [off], prefs.control_url))
        if refusal is not None:
            return refusal
        for value in (False, True):
            edited = await self._out.tailscaled.edit({"RouteAll": value})
            if isinstance(edited, Refusal):
                return edited
            self._looker.prefs = edited
            await asyncio.sleep(APART)
        return self._keep(before)

    # --- telling

    @property
    def failing(self) -> bool:
        """Something is to be tried again soon, and no event will tell when it is time."""
        return any(each.code in PASSING for each in self.troubles.values())

    def keep_only(self, needed: Collection[Act]) -> None:
        """What could not be mended, and needs it no longer, is no trouble."""
        for act in Act:
            if act not in needed:
                self.note(act.value, None)

    def _did(self, what: str) -> None:
        log.info("mesh: %s", what)
        self.done.append(what)

    def note(self, kind: str, trouble: Refusal | None) -> None:
        if trouble is None:
            self.troubles.pop(kind, None)
        else:
            self.troubles[kind] = trouble


def _stopped(tailnet: Tailnet) -> Refusal:
    return Refusal(Trouble.MESH_STOPPED, f"tailscaled is in state {tailnet.state}", "run `tailscale up`")


def _left_alone(found: tuple[preferences.Difference, ...]) -> Refusal:
    named = ", ".join(f"{each.name} is {_word(each.now)} and must be {_word(each.must)}" for each in found)
    cure = f"{found[0].reason}; set it with `tailscale set`, or mesh.repairPreferences to true"
    return Refusal(Trouble.PREFERENCE, named, cure)


def _contested(wanted: Collection[Network]) -> Refusal:
    """Each stroke makes Headscale compute the maps of all nodes anew."""
    named = ", ".join(map(str, record.in_order(wanted)))
    what = f"AdvertiseRoutes does not stay as written: {named} was removed again and again, so HeadCNI leaves it"
    cure = "find out who else writes AdvertiseRoutes (`tailscale set`, k3s), then run `headcni mesh repair`"
    return Refusal(Trouble.NOT_ANNOUNCED, what, cure)


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
