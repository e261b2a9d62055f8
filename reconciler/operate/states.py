"""`headcni states`: the transition table, for reading (`table`) and for drawing (`mermaid`, `dot`).

The diagram in docs/states.md is this output, so it cannot be older than the code.
"""

from __future__ import annotations

from argparse import Namespace

from reconciler.operate.output import emit, table
from statemachine.attachment import State
from statemachine.machine import BACKOFF, NEXT_STEP, TRANSITIONS


def states(args: Namespace) -> int:
    if args.output == "mermaid":
        print(mermaid())
    elif args.output == "dot":
        print(dot())
    elif args.output in ("json", "yaml"):
        emit([{"from": s, "trigger": t, "to": to, "meaning": meaning} for s, t, to, meaning in arrows()], args.output)
    else:
        print(table(("FROM", "TRIGGER", "TO", "MEANING"), arrows(), args.output == "wide"))
    return 0


def arrows() -> list[tuple[str, str, str, str]]:
    return [
        (source.value, move.trigger, move.target.value, move.meaning) for move in TRANSITIONS for source in move.sources
    ]


def mermaid() -> str:
    lines = ["stateDiagram-v2"]
    lines += [f'  state "{state.value}" as {_name(state.value)}' for state in State if "-" in state.value]
    lines.append(f"  [*] --> {State.REQUESTED.value}")
    lines += [f"  {_name(source)} --> {_name(target)}: {trigger}" for source, trigger, target, _ in arrows()]
    lines.append(f"  {_name(State.TORN_DOWN.value)} --> [*]")
    return "\n".join(lines)


def dot() -> str:
    lines = ["digraph attachment {", "  rankdir=LR;", "  node [shape=box, style=rounded];"]
    lines += [f'  "{source}" -> "{target}" [label="{trigger}"];' for source, trigger, target, _ in arrows()]
    return "\n".join([*lines, "}"])


def work() -> list[tuple[str, ...]]:
    """The step that leads out of each state, and how it is tried again."""
    rows: list[tuple[str, ...]] = []
    for state, step in NEXT_STEP.items():
        if step is not None:
            delays = BACKOFF[step]
            limit = f"{delays.limit} times, then the ADD is refused" if delays.limit is not None else "for ever"
            row = (state.value, step.value, f"{delays.first:g} s", f"{delays.factor:g}", f"{delays.cap:g} s", limit)
            rows.append(row)
    return rows


def _name(state: str) -> str:
    return state.replace("-", "_")
