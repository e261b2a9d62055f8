"""The plugin's start, beside what it is made of and what others pay."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from benchmarks.box import Node, make_node
from benchmarks.contender import Contender, contender, ptp
from benchmarks.figures import Figure, Report, Series
from deploy import plugin_file


def run(work: Path, plugins: Path, rounds: int) -> Report:
    node = make_node("start")
    interpreter = plugin_file.choose().path
    ours = contender("headcni", work / "bin" / "headcni", node, work, {"type": "headcni"})
    others = {
        "python -I -S -c pass": _script(work, node, "pass", f"#!{interpreter} -IScpass"),
        "python -I -S, leaving by _exit": _script(
            work, node, "exit", f"#!{interpreter} -IScimport posix;posix._exit(0)"
        ),
        "the plugin's source": _script(work, node, "source", f"#!{interpreter} -IS\n{plugin_file.PLUGIN.read_text()}"),
        "/bin/true": contender("true", Path("/bin/true"), node, work, {}),
        "ptp, a plugin in Go": ptp(plugins, node, work),
    }
    taken: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        taken["ours"].append(ours.call("VERSION"))
        for name, other in others.items():
            taken[name].append(other.call("VERSION"))
    series = [Series(name, seconds) for name, seconds in taken.items()]
    figures = [Figure(f"start, ours to {each.name}", series[0].p50 / each.p50, "x") for each in series[1:]]
    return Report("The plugin's start (VERSION)", figures, series)


def _script(work: Path, node: Node, name: str, text: str) -> Contender:
    path = work / "bin" / name
    path.write_text(text + "\n")
    path.chmod(0o755)
    return contender(name, path, node, work, {})
