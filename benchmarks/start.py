"""The plugin's start, beside what it is made of and what others pay."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from benchmarks import headcni
from benchmarks.box import Node, make_node
from benchmarks.contender import Contender, contender, ptp
from benchmarks.figures import Figure, Report, Series
from deploy import plugin_file

SOURCE = "the plugin's source by python -I -S"
GOALS = {("launcher", SOURCE): 0.65}


def run(work: Path, plugins: Path, rounds: int) -> Report:
    node = make_node("start")
    interpreter = plugin_file.choose().path
    forms = [form for form in headcni.FORMS if (work / "forms" / form).exists()]
    contenders = {
        form: contender(form, work / "forms" / form / "headcni", node, work, {"type": "headcni"}) for form in forms
    } | {
        "python -I -S -c pass": _script(work, node, "pass", f"#!{interpreter} -IScpass"),
        "python -I -S, leaving by _exit": _script(
            work, node, "exit", f"#!{interpreter} -IScimport posix;posix._exit(0)"
        ),
        SOURCE: _script(work, node, "source", f"#!{interpreter} -IS\n{plugin_file.PLUGIN.read_text()}"),
        "/bin/true": contender("true", Path("/bin/true"), node, work, {}),
        "ptp, a plugin in Go": ptp(plugins, node, work),
    }
    taken: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name, each in contenders.items():
            taken[name].append(each.call("VERSION"))
    series = {name: Series(name, seconds) for name, seconds in taken.items()}
    figures = [
        Figure(f"start, {form} to {other}", series[form].p50 / series[other].p50, "x", GOALS.get((form, other)))
        for form in forms
        for other in series
        if other not in forms
    ]
    return Report("The plugin's start (VERSION), in each of its forms", figures, [*series.values()])


def _script(work: Path, node: Node, name: str, text: str) -> Contender:
    path = work / "bin" / name
    path.write_text(text + "\n")
    path.chmod(0o755)
    return contender(name, path, node, work, {})
