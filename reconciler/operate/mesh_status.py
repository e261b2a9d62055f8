"""`headcni mesh status` and `headcni mesh routes`: the chain of each own prefix, and the ways to those of others."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from cni.spec import Refusal
from reconciler.mesh.model import Chain, Holds, Link, LinkState, View, Way
from reconciler.mesh.standing import cidrs, lone_pods
from reconciler.mesh.viewfile import encode_view
from reconciler.operate.mesh import Last, last_view, told
from reconciler.operate.output import age, emit, fields, table
from reconciler.operate.statedir import StateDir

NAMED = 5  # ways that are named one by one; `routes` has all
HOLDS = {Holds.YES: "yes", Holds.NO: "no", Holds.UNKNOWN: "?"}


def status(args: Namespace, state: StateDir, now: float) -> int | Refusal:
    last = last_view(state, now)
    if isinstance(last, Refusal):
        return last
    if args.output in ("json", "yaml"):
        emit(as_data(last), args.output)
    else:
        print(page(last, args.output == "wide"))
    return 0 if last.fresh and last.in_force else 1


def as_data(last: Last) -> dict[str, Any]:
    return {
        "daemon_lives": last.daemon_lives,
        "fresh": last.fresh,
        "age_seconds": max(0.0, last.now - last.view.written),
        "in_force": last.in_force,
        "view": orjson.loads(encode_view(last.view)),
    }


def page(last: Last, wide: bool) -> str:
    parts = [fields([(name, value) for name, value in _facts(last) if value]), _chains(last, wide), *_missing(last)]
    if wide and last.view.log:
        parts.append("\n".join(("lately", *last.view.log)))
    return "\n\n".join(part for part in parts if part)


def _facts(last: Last) -> list[tuple[str, str]]:
    view = last.view
    node = " ".join(filter(None, (view.dns_name or view.name, *map(str, view.addresses))))
    return [
        ("mesh", "in force" if last.in_force else "NOT in force"),
        ("as of", last.as_of),
        ("node", node),
        ("tailscaled", ", ".join(filter(None, (view.state, view.version and f"version {view.version}")))),
        ("control", view.control_url),
        ("device", f"{view.device.name}, MTU {view.device.mtu}" if view.device else "none"),
        ("peers", f"{view.peers}, {view.peers_online} online"),
        ("ways", _ways(view)),
        ("foreign", _foreign(view)),
        ("wrong", "\n".join(told(each.trouble) for each in view.findings)),
    ]


def _ways(view: View) -> str:
    """To pod CIDRs of other nodes, as far as packets were seen to come back."""
    counts = {holds: sum(way.delivered.holds is holds for way in view.ways) for holds in Holds}
    text = f"{len(view.ways)} to other nodes, {counts[Holds.YES]} answer"
    if counts[Holds.UNKNOWN]:
        text += f", {counts[Holds.UNKNOWN]} not probed yet"
    lost = [f"{way.prefix} of {way.name}{_why(way)}" for way in view.ways if way.delivered.holds is Holds.NO]
    more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
    return text + (f"; silent: {', '.join(lost[:NAMED])}{more}" if lost else "")


def _why(way: Way) -> str:
    reasons = [text for holds, text in ((way.online, "offline"), (way.routed, "no route")) if not holds]
    return f" ({', '.join(reasons)})" if reasons else ""


def _foreign(view: View) -> str:
    return f"{' '.join(view.foreign)}: announced by others on this node, left as they are" if view.foreign else ""


def _chains(last: Last, wide: bool) -> str:
    rows = [
        (str(chain.prefix), link.value, HOLDS[at.holds], age(at.since, last.now) if at.since else "", at.evidence)
        for chain in _shown(last.view)
        for link, at in _in_order(chain.links)
    ]
    text = table(("PREFIX", "LINK", "HOLDS", "SINCE", "EVIDENCE"), rows, wide, cut=("EVIDENCE",)) if rows else ""
    well = len(last.view.chains) - len(_shown(last.view))
    more = f"addresses of single pods in force: {well}" if well else ""
    return "\n".join(filter(None, (text, more))) or "this node announces nothing"


def _shown(view: View) -> list[Chain]:
    return [*cidrs(view), *[chain for chain in lone_pods(view) if not chain.in_force]]


def _in_order(links: Any) -> list[tuple[Link, LinkState]]:
    return [(link, links[link]) for link in Link]


def _missing(last: Last) -> list[str]:
    """Each cause once, though it may break several links."""
    causes: dict[Refusal, None] = {}
    for chain in _shown(last.view):
        for _, at in _in_order(chain.links):
            if at.trouble is not None and at.holds is not Holds.YES:
                causes[at.trouble] = None
    for finding in last.view.findings:
        causes.pop(finding.trouble, None)
    return [told(each) for each in causes]


# --- routes


@dataclass(frozen=True, slots=True)
class Advertised:
    prefix: str
    owner: str
    announced: Holds
    approved: Holds


def routes(args: Namespace, state: StateDir, now: float) -> int | Refusal:
    last = last_view(state, now)
    if isinstance(last, Refusal):
        return last
    own, ways = advertised(last.view), last.view.ways
    if args.output in ("json", "yaml"):
        view = as_data(last)["view"]
        data = {"age_seconds": max(0.0, now - last.view.written), "advertised": own, "accepted": view["ways"]}
        emit(data, args.output)
        return 0
    wide = args.output == "wide"
    print(f"as of {last.as_of}\n")
    rows = [(each.prefix, each.owner, HOLDS[each.announced], HOLDS[each.approved]) for each in own]
    print(table(("ADVERTISED HERE", "BY", "ANNOUNCED", "APPROVED"), rows, wide) if rows else "nothing is advertised")
    print("\n" + (_accepted(ways, wide) if ways else "no prefix of another node is shown to this one"))
    return 0


def advertised(view: View) -> list[Advertised]:
    """Whether a foreign route is approved is nobody's concern here, and not asked."""
    ours = [
        Advertised(str(each.prefix), "HeadCNI", each.links[Link.ANNOUNCED].holds, each.links[Link.APPROVED].holds)
        for each in view.chains
    ]
    return [*ours, *[Advertised(each, "others", Holds.YES, Holds.UNKNOWN) for each in view.foreign]]


def _accepted(ways: Sequence[Way], wide: bool) -> str:
    titles = ("ACCEPTED FROM PEERS", "NODE", "ONLINE", "IN THE KERNEL", "ANSWERS", "TOOK", "PATH")
    rows = [
        (
            str(way.prefix),
            way.name,
            "yes" if way.online else "no",
            "yes" if way.routed else "no",
            HOLDS[way.delivered.holds],
            f"{way.rtt_ms:.1f} ms" if way.rtt_ms is not None else "",
            way.path,
        )
        for way in ways
    ]
    return table(titles, rows, wide, cut=("NODE", "PATH"))
