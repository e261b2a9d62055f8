"""`headcni migrate check`: what going from Flannel to HeadCNI would change here, node by node. Changes nothing.

Exit code 0: it can begin. 1: something must be settled first, and each reason has its cure. With a way to the API
server all nodes are told; without one (`--kube off`) this one.
"""

from __future__ import annotations

import asyncio
import os
import textwrap
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cni.spec import Refusal
from reconciler.config import Config
from reconciler.migrate import flannel, links
from reconciler.migrate.cluster import Cluster, ask
from reconciler.migrate.flannel import Found
from reconciler.migrate.plan import Move, Plan, plan
from reconciler.migrate.seen import Seen
from reconciler.migrate.steps import Step, steps
from reconciler.node.podcidr import judge
from reconciler.node.sources import look
from reconciler.operate.configure import loader, refused
from reconciler.operate.output import WIDTH, emit, fields, table

PAGE = "docs/migrate-flannel.md"


def check(args: Namespace) -> int | Refusal:
    config = loader(args)()
    if not isinstance(config, Config):
        return refused(config)
    seen = _seen(config, args)
    decided, todo = plan(seen), steps(seen)
    if args.output in ("json", "yaml"):
        emit(as_data(seen, decided, todo), args.output)
    else:
        print(page(seen, decided, todo, args.output == "wide"))
    return 0 if decided.possible else 1


def _seen(config: Config, args: Namespace) -> Seen:
    found = flannel.read_files(config.node_root, str(config.cni_conf_dir), args.subnet_env, args.net_conf)
    cluster = asyncio.run(ask(config))
    known = cluster if isinstance(cluster, Cluster) else None
    own = known.node(config.node_name) if known else None
    evidence = look(config, os.environ, api=own.pod_cidrs if own else None, nodes=len(known.nodes) if known else 0)
    seen = Seen(config.node_name, found, judge(evidence), cluster)
    return replace(seen, here=_with_kernel(found, seen))


def _with_kernel(found: Found, seen: Seen) -> Found:
    chains = links.chains()
    subnets = seen.env.subnets if seen.env else ()
    routes = links.routes(seen.networks, subnets)
    return replace(found, links=links.links(), routes=routes, chains=chains.found, blind=chains.blind)


# --- as data


def as_data(seen: Seen, decided: Plan, todo: Sequence[Step]) -> dict[str, Any]:
    here = seen.here
    return {
        "possible": decided.possible,
        "reasons": [_told(each) for each in decided.reasons],
        "remarks": [_told(each) for each in decided.remarks],
        "flannel": {
            "backend": seen.conf.backend if seen.conf else "",
            "networks": [str(each) for each in seen.networks],
            "mtu": seen.env.mtu if seen.env else 0,
            "masquerade": seen.env.masquerade if seen.env else None,
            "configured_by": here.net_conf_from or (seen.kubernetes.net_conf_from if seen.kubernetes else ""),
        },
        "differences": list(decided.differences),
        "values": decided.values,
        "here": {
            "node": seen.node,
            "pod_cidrs": [str(each) for each in (seen.env.subnets if seen.env else ())],
            "headcni_finds": {"cidrs": [str(each) for each in seen.choice.cidrs], "guess": seen.choice.guess},
            "reserved": [str(each) for each in here.reserved],
            "pods_plugged_in": sum(each.ports for each in here.links),
            "leftovers": [{"what": each.what, "command": each.command} for each in decided.leftovers],
        },
        "nodes": [_move(each) for each in decided.moves],
        "steps": [{"what": each.what, "commands": list(each.commands)} for each in todo],
    }


def _told(refusal: Refusal) -> dict[str, Any]:
    return {"code": int(refusal.code), "what": refusal.msg, "cure": refusal.details}


def _move(move: Move) -> dict[str, Any]:
    return {
        "name": move.node,
        "here": move.here,
        "pod_cidrs": [str(each) for each in move.pod_cidrs],
        "public": move.public,
        "control_plane": move.control_plane,
        "headcni_runs": move.ours,
        "moved": move.moved,
        "drained": None if move.drained is None else list(move.drained),
        "stay": list(move.stay),
    }


# --- on paper


def page(seen: Seen, decided: Plan, todo: Sequence[Step], wide: bool) -> str:
    parts = [_head(seen, decided), *[_refusal("FIRST", each, wide) for each in decided.reasons]]
    parts += [_refusal("NOTE", each, wide) for each in decided.remarks]
    if seen.here.anything or seen.kubernetes:
        parts += [_listed("WHAT CHANGES", decided.differences, wide), _values(decided.values)]
        parts += [_nodes(decided.moves, wide), _left(seen, decided, wide), _todo(todo, wide)]
    return "\n\n".join(part for part in parts if part)


def _head(seen: Seen, decided: Plan) -> str:
    count = len(decided.reasons)
    verdict = "can begin" if decided.possible else f"not yet: {count} thing{'s'[: count != 1]} must be settled first"
    cidrs = ", ".join(map(str, seen.env.subnets)) if seen.env else ""
    conf = seen.conf
    pairs = [
        ("from Flannel", verdict),
        ("pods", ", ".join(map(str, seen.networks))),
        ("this node", f"{seen.node}, {cidrs}, which stays" if cidrs else ""),
        ("backend", f"{conf.backend}: {decided.carried_by}" if conf else ""),
        ("cluster", seen.kubernetes.endpoint if seen.kubernetes else ""),
    ]
    return fields([(name, text) for name, text in pairs if text])


def _refusal(title: str, refusal: Refusal, wide: bool) -> str:
    lines = (f"{title:6} {refusal.msg} (code {int(refusal.code)})", f"  cure {refusal.details}")
    return "\n".join(_folded(line, 7, wide) for line in lines)


def _listed(title: str, texts: Sequence[str], wide: bool) -> str:
    return "\n".join([title, *[_folded(f"- {each}", 2, wide) for each in texts]]) if texts else ""


def _values(values: Mapping[str, Any]) -> str:
    import yaml

    text = yaml.safe_dump(values, sort_keys=False, default_flow_style=False)
    return "VALUES FOR THE CHART\n" + textwrap.indent(text.rstrip(), "  ")


def _nodes(moves: Sequence[Move], wide: bool) -> str:
    if not moves:
        return ""
    titles = ("NODES, IN THIS ORDER", "POD CIDR", "FLANNEL AT", "PODS TO RESTART", "HEADCNI")
    rows = [
        (
            each.node + " (this one)" * each.here,
            " ".join(map(str, each.pod_cidrs)),
            each.public,
            "?" if each.drained is None else str(len(each.drained) + len(each.stay)),
            "moved" if each.moved else "runs" if each.ours else "",
        )
        for each in moves
    ]
    stay = [f"{each.node}: {' '.join(each.stay)}" for each in moves if each.stay]
    drained = [f"{each.node}: {' '.join(each.drained)}" for each in moves if each.drained and wide]
    parts = [
        table(titles, rows, wide, cut=("POD CIDR",)),
        _listed("OF THOSE, `kubectl drain` LEAVES", stay, wide),
        _listed("AND MOVES", drained, wide),
    ]
    return "\n".join(part for part in parts if part)


def _left(seen: Seen, decided: Plan, wide: bool) -> str:
    here = seen.here
    if not (decided.leftovers or here.reserved):
        return ""
    ports = sum(each.ports for each in here.links)
    lines = [f"{len(here.reserved)} addresses are reserved, {ports} pods are plugged in now"] if here.reserved else []
    lines += [f"{each.what}\n{each.command}" for each in decided.leftovers]
    return "\n".join(["LEFT BY FLANNEL ON THIS NODE", *_indented(lines, wide)])


def _todo(todo: Sequence[Step], wide: bool) -> str:
    lines = ["\n".join((f"{number}. {each.what}", *each.commands)) for number, each in enumerate(todo, 1)]
    return "\n".join([f"THE ORDER ({PAGE})", *_indented(lines, wide)])


def _indented(texts: Sequence[str], wide: bool) -> Iterator[str]:
    """The first line of each is words, the others are commands, and are never cut or folded."""
    for text in texts:
        words, *commands = text.split("\n")
        yield _folded(f"- {words}" if not words[0].isdigit() else words, 2, wide)
        yield from (f"    {command}" for command in commands)


def _folded(line: str, indent: int, wide: bool) -> str:
    if wide:
        return line
    return textwrap.fill(line, WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
