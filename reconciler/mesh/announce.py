"""What to write into AdvertiseRoutes, a list that is shared with everybody else.

tailscaled replaces the list as a whole and knows neither owners nor a compare-and-swap. What is ours in it is what
`mesh.json` says, in the spelling that we write; every other entry is foreign and stays, byte for byte and in its
order: exit routes, subnets of a person, routes of an app connector, twice the same. So:

1. record what is to be added (`Write`), durably;
2. write the list (`Edit`): the list as it is, less what is ours and no longer wanted, plus what is missing;
3. when a later look shows that what we withdrew is gone, forget it (`Forget`).

`next_step` looks at nothing but preferences, record and wish, so after a kill between any two steps the next run goes
on where things are. What is wanted and stood there before we recorded it is *borrowed*: in force, never withdrawn.

Two things no order can cure. Who announces the very prefix that our record has already, or has an instant later, is
taken for us. And who writes between our look and our write loses that write: the bus tells, `lost_between` finds it.
A daemon killed in just that instant does not.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_network
from itertools import pairwise

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble
from reconciler.mesh.controlurl import normal
from reconciler.mesh.model import Prefs
from reconciler.mesh.record import MeshRecord, in_order
from reconciler.settings import Network

Routes = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Merge:
    routes: Routes  # the list as it must be
    add: tuple[Network, ...]
    withdraw: tuple[Network, ...]
    borrowed: tuple[Network, ...]


@dataclass(frozen=True, slots=True)
class Write:
    """Save this record, before anything is announced."""

    record: MeshRecord


@dataclass(frozen=True, slots=True)
class Edit:
    """Write `merge.routes`; then ask `lost_between`, then look again."""

    merge: Merge


@dataclass(frozen=True, slots=True)
class Forget:
    """Save this record: what it no longer has was seen to be withdrawn."""

    record: MeshRecord


def merge(current: Sequence[str], wanted: Collection[Network], recorded: Collection[Network]) -> Merge:
    ours = {str(each): each for each in recorded}
    unwanted = {text for text, network in ours.items() if network not in wanted}
    kept = [entry for entry in current if entry not in unwanted]
    present = {_network(entry) for entry in kept}
    add = in_order(each for each in wanted if each not in present)
    return Merge(
        routes=(*kept, *map(str, add)),
        add=add,
        withdraw=in_order(ours[text] for text in unwanted.intersection(current)),
        borrowed=in_order(each for each in wanted if each in present and not (str(each) in kept and each in recorded)),
    )


def next_step(prefs: Prefs, record: MeshRecord, wanted: Collection[Network]) -> Write | Edit | Forget | Refusal | None:
    """None: all is as wanted. `prefs` must have been read after the last step was done."""
    if not record.written_for(prefs.control_url):
        return Refusal(
            Trouble.JOINED_ELSEWHERE,
            f"what HeadCNI announced was at {normal(record.control_url)}, this node is at {normal(prefs.control_url)}",
            "switch tailscaled back to that profile; or set headscale.url to the server the node is at now",
        )
    change = merge(prefs.advertise, wanted, record.announced)
    recorded = record.announced.union(change.add)
    if recorded != record.announced:
        return Write(replace(record, control_url=prefs.control_url, announced=recorded))
    if change.routes != prefs.advertise:
        return Edit(change)
    remaining = record.announced.intersection(wanted)
    return Forget(replace(record, announced=remaining)) if remaining != record.announced else None


def lost_between(read: Routes, seen: Sequence[Routes], wrote: Routes) -> Routes | None:
    """The list to write because ours undid what somebody wrote after our look; None: nothing is lost.

    `seen` is every list that the bus told of since just before that look, in order, with no loss of the bus between.
    It is also None while our own write is not among them: ask again when it is.
    """
    if wrote not in seen:
        return None
    at = seen.index(wrote)
    lost = seen[at - 1] if at else read
    if lost == read:
        return None
    right = lost  # and on top of it our change, and whatever came after
    for before, after in pairwise((read, *seen[at:])):
        right = _again(before, after, right)
    return right if right != seen[-1] else None


def _again(before: Routes, after: Routes, on: Routes) -> Routes:
    """The change from one list to the next, made to a third."""
    removed, added = set(before) - set(after), [entry for entry in after if entry not in before]
    return (*(entry for entry in on if entry not in removed), *(entry for entry in added if entry not in on))


def _network(entry: str) -> Network | None:
    try:
        return ip_network(entry, strict=False)
    except ValueError:
        return None
