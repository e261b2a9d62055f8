"""Whether this node is joined, and what to do if not. Nothing here acts.

A node that is joined elsewhere is never touched: without the server's URL being ours, no answer here leads to a write.
A node *is* joined while tailscaled has a node key and was not logged out, in whatever state it is now. With an empty
`url` in the wish, whatever the node is joined to is ours, but a stopped one is left stopped, for nobody can tell why.

tailscaled hides what went wrong: behind `Running` may stand a node that was deleted; behind `NeedsLogin` one that never
joined, an expired key, a deleted node or a refused key; behind `NoState` a start of one second and a control server
that has been gone for days. `Health` has the words of the last login, and they are told as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble
from reconciler.mesh.controlurl import normal, same_server
from reconciler.mesh.model import Peer, Prefs, Tailnet

_LAST_ERROR = "The last login error was: "
_NO_ANSWER = ("fetch control key", "connection attempts failed", "connection refused", "i/o timeout")
_NOT_PREFERENCES = ("Config", "Persist")  # keys and identity, which `start` keeps by itself
_NETFILTER_ON = 2
_GIVE_A_KEY = "give an auth key by HEADCNI_AUTH_KEY or headscale.authKeyFile"


@dataclass(frozen=True, slots=True)
class JoinWish:
    url: str
    hostname: str  # empty: as it is
    tags: tuple[str, ...]  # empty: as they are
    accept_dns: bool


@dataclass(frozen=True, slots=True)
class Joined:
    """To our server. It may be stopped: WantRunning is then a preference to repair, like any other."""


@dataclass(frozen=True, slots=True)
class Wait:
    why: str
    trouble: Refusal | None = None


@dataclass(frozen=True, slots=True)
class Join:
    """`start` with key and `joining_prefs`, then log in."""


@dataclass(frozen=True, slots=True)
class Rejoin:
    """`start` with the key alone, which keeps the preferences, then log in."""

    why: Refusal


@dataclass(frozen=True, slots=True)
class Stuck:
    why: Refusal


Decision = Joined | Wait | Join | Rejoin | Stuck


def decide_join(tailnet: Tailnet, prefs: Prefs, wish: JoinWish, have_key: bool, now: float) -> Decision:
    """`now` by the wall clock, which is what a key's expiry is told in."""
    joined = tailnet.state in ("Running", "Stopped") or (tailnet.has_node_key and not prefs.logged_out)
    if joined and wish.url and not same_server(wish.url, prefs.control_url):
        return Stuck(_elsewhere(prefs, wish))
    if tailnet.running:
        return _rejoin(tailnet, prefs, have_key, "", now) if _disowned(tailnet) else Joined()
    if tailnet.state == "Stopped":
        return Joined() if wish.url else Stuck(_stopped(prefs))
    words = last_login_error(tailnet.health)
    if unreachable(words) and (not wish.url or same_server(wish.url, prefs.control_url)):
        return Wait(f"tailscaled waits for {normal(prefs.control_url)}", _control_lost(prefs, words))
    if tailnet.state == "NeedsMachineAuth":
        return Stuck(_unapproved(prefs))
    if tailnet.state != "NeedsLogin" and (joined or not words):
        return Wait(f"tailscaled is in state {tailnet.state}" + (f": {words}" if words else ""))
    return _rejoin(tailnet, prefs, have_key, words, now) if joined else _join(wish, have_key)


def _join(wish: JoinWish, have_key: bool) -> Decision:
    if not wish.url:
        msg = "the node is not joined to a tailnet, and headscale.url, which says where to, is empty"
        return Stuck(Refusal(Trouble.NOT_JOINED, msg, "write headscale.url, or join by hand with `tailscale up`"))
    if not have_key:
        server = normal(wish.url)
        msg = f"the node is not joined to {server}, and there is no auth key to join with"
        cure = f"{_GIVE_A_KEY}, or run `tailscale up --login-server {server}`"
        return Stuck(Refusal(Trouble.NOT_JOINED, msg, cure))
    return Join()


def _rejoin(tailnet: Tailnet, prefs: Prefs, have_key: bool, words: str, now: float) -> Decision:
    server = normal(prefs.control_url)
    cure = f"{_GIVE_A_KEY}, or run `tailscale up --force-reauth`"
    if _expired(tailnet.me, now):
        until = f" ({tailnet.me.key_expiry})" if tailnet.me.key_expiry else ""
        why = Refusal(Trouble.KEY_EXPIRED, f"this node's key at {server} has expired{until}", cure)
    elif tailnet.auth_url:
        why = Refusal(Trouble.NODE_DELETED, f"{server} no longer knows this node: it was deleted there", cure)
    else:
        msg = f"{server} does not let this node in" + (f": {words}" if words else ", and tailscaled does not say why")
        why = Refusal(Trouble.NOT_JOINED, msg, cure)
    return Rejoin(why) if have_key else Stuck(why)


def _disowned(tailnet: Tailnet) -> bool:
    """A node that was deleted stays Running; made to refresh, it is offered a page to register itself anew."""
    return bool(tailnet.auth_url) and not tailnet.me.online


def _expired(me: Peer, now: float) -> bool:
    if me.expired:
        return True
    try:
        until = datetime.fromisoformat(me.key_expiry)
    except ValueError:
        return False
    return until.year > 1 and until.replace(tzinfo=until.tzinfo or UTC).timestamp() <= now  # the year 1: never


def _elsewhere(prefs: Prefs, wish: JoinWish) -> Refusal:
    return Refusal(
        Trouble.JOINED_ELSEWHERE,
        f"the node is joined to {normal(prefs.control_url)}, and headscale.url is {normal(wish.url)}",
        "correct headscale.url; or leave the other tailnet first with `tailscale logout`",
    )


def _stopped(prefs: Prefs) -> Refusal:
    msg = f"tailscaled is stopped; the node is joined to {normal(prefs.control_url)}"
    return Refusal(Trouble.MESH_STOPPED, msg, "run `tailscale up`; with headscale.url set, HeadCNI does it")


def _control_lost(prefs: Prefs, words: str) -> Refusal:
    msg = f"tailscaled cannot reach {normal(prefs.control_url)}: {words}"
    cure = "see that Headscale runs and is reachable from this node; do not restart tailscaled meanwhile"
    return Refusal(Trouble.CONTROL_LOST, msg, cure)


def _unapproved(prefs: Prefs) -> Refusal:
    msg = f"{normal(prefs.control_url)} has not approved this node yet (NeedsMachineAuth)"
    return Refusal(Trouble.NOT_JOINED, msg, "approve the node there")


# --- the words of the last login


def last_login_error(health: Sequence[str]) -> str:
    for line in health:
        _, found, words = line.partition(_LAST_ERROR)
        if found:
            return words.strip()
    return ""


def unreachable(words: str) -> bool:
    """The login failed before the control server had a say."""
    return any(each in words for each in _NO_ANSWER)


def key_refused(url: str, words: str) -> Refusal:
    cure = "make a new one (headscale preauthkeys create --reusable) and write it to headscale.authKeyFile"
    return Refusal(Trouble.JOIN_REFUSED, f"{url} does not accept the auth key: {words or 'no reason given'}", cure)


# --- what to join with


def joining_prefs(raw: Mapping[str, Any], wish: JoinWish, required: Mapping[str, Any]) -> dict[str, Any]:
    """All preferences, for `start` sets to zero what it is not given."""
    prefs = {name: value for name, value in raw.items() if name not in _NOT_PREFERENCES}
    if prefs.get("NetfilterMode") is None:
        prefs["NetfilterMode"] = _NETFILTER_ON
    if wish.hostname:
        prefs["Hostname"] = wish.hostname
    if wish.tags:
        prefs["AdvertiseTags"] = list(wish.tags)
    return prefs | dict(required) | {"ControlURL": wish.url, "WantRunning": True, "LoggedOut": False}


@dataclass(frozen=True, slots=True)
class JoinAttempts:
    """Tries since the node was last joined. One that did not lead to Running counts as refused: the same key waits,
    longer each time; another key does not. Holds the key's hash, never the key."""

    FIRST_WAIT = 60.0
    LONGEST_WAIT = 600.0

    tries: int = 0
    at: float = 0.0
    key_hash: str = field(default="", repr=False)

    def may_try(self, key: str, now: float) -> bool:
        return _hash(key) != self.key_hash or now >= self.at + self.wait

    @property
    def wait(self) -> float:
        return min(self.FIRST_WAIT * 2.0 ** min(self.tries - 1, 10), self.LONGEST_WAIT)

    def tried(self, key: str, now: float) -> JoinAttempts:
        hashed = _hash(key)
        return JoinAttempts(self.tries + 1 if hashed == self.key_hash else 1, now, hashed)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
