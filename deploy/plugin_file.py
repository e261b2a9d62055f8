"""`python -m deploy.plugin_file OUT`: the plugin as one executable file, for nodes where a Python is installed.

The file is a first line, a few lines of Python, a zero byte, the plugin's compiled code, and its source:

    #!/usr/bin/python3 -IScimport sys,posix as p; … read this file, execute what stands before the zero byte

The kernel hands everything behind the interpreter's name to it as one argument, so `-c` and its program fit into the
first line, and the interpreter never opens the file as a script: it neither compiles the plugin (a third of the time
to start) nor looks whether the file is a zip archive. The forms are compared in docs/performance.md.

Compiled code is only good for the Python that made it. When a distribution's upgrade changes that, the magic number
differs and the source at the end of the file is used: 2 ms slower, and no pod notices. A Python that is too old for
the source is told to the runtime as a CNI error. Only a Python that is gone altogether cannot be told to anybody.

Rejected: a .pyc beside a launcher (two files that an upgrade may tear apart; no faster), the code as a literal in a
script (its text must be tokenised: 5 % more), /bin/sh that executes Python (8 % more), zip (twice as slow).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PLUGIN = Path(__file__).resolve().parent.parent / "cni" / "plugin.py"
OLDEST = (3, 11)
FIRST_LINE_LIMIT = 255  # of Linux since 5.1
OLD_FIRST_LINE_LIMIT = 127
READ_LIMIT = 1 << 17

_NEEDED = ("errno", "fcntl", "posix", "select", "time")
_BOOT = r"import sys,posix as p;s,_,b=p.read(p.open(sys.argv[1],0),%d).partition(b'\0');exec(s)" % READ_LIMIT
_ASK = (
    "import sys,_imp,json;json.dump({'version': sys.version_info[:3], 'builtin': sys.builtin_module_names}, sys.stdout)"
)
_COMPILE = (
    "import sys,marshal,_frozen_importlib_external as x;"
    "code=compile(sys.stdin.buffer.read(),'headcni','exec',dont_inherit=True,optimize=2);"
    "sys.stdout.buffer.write(x.MAGIC_NUMBER+marshal.dumps(code))"
)


class Unsuitable(Exception):
    """No plugin can be made with this interpreter; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    path: str
    version: tuple[int, int, int]
    from_disk: tuple[str, ...]  # needed modules that are not built in

    def __str__(self) -> str:
        loads = f", loads {', '.join(self.from_disk)} from disk (slower)" if self.from_disk else ""
        return f"{self.path} (Python {'.'.join(map(str, self.version))}{loads})"


def examine(path: str) -> Interpreter:
    if not path.startswith("/") or any(each.isspace() for each in path):
        raise Unsuitable(f"{path!r} cannot stand in a first line: give an absolute path without blanks")
    try:
        answer = subprocess.run([path, "-ISc", _ASK], capture_output=True, check=True, timeout=30).stdout
        facts = json.loads(answer)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise Unsuitable(f"{path} is no Python that runs here ({error}); install python3, or give --python") from None
    version = tuple(facts["version"])
    if version < OLDEST:
        raise Unsuitable(f"{path} is Python {'.'.join(map(str, version))}; the plugin needs {_dotted(OLDEST)} or newer")
    return Interpreter(path, version, tuple(name for name in _NEEDED if name not in facts["builtin"]))


def choose() -> Interpreter:
    """The distribution's own, unless this one starts the plugin faster or is the only one new enough."""
    found: list[Interpreter] = []
    complaints: list[str] = []
    for path in dict.fromkeys(("/usr/bin/python3", sys._base_executable)):  # type: ignore[attr-defined]
        try:
            found.append(examine(path))
        except Unsuitable as why:
            complaints.append(str(why))
    if not found:
        raise Unsuitable("; ".join(complaints))
    return min(found, key=lambda each: len(each.from_disk))


def build(interpreter: Interpreter, source: bytes) -> bytes:
    # Under -c the file's own name comes second; the plugin looks for it where a script's name is.
    source = b"import sys\ndel sys.argv[0]\n" + source
    made = subprocess.run([interpreter.path, "-ISc", _COMPILE], input=source, capture_output=True, check=True).stdout
    return compose(interpreter.path, made[:4], made[4:], source)


def compose(path: str, magic: bytes, code: bytes, source: bytes) -> bytes:
    first = f"#!{path} -ISc{_BOOT}\n"
    if len(first) > FIRST_LINE_LIMIT:
        raise Unsuitable(f"{path} is too long for a first line; give --python a shorter path, like a symbolic link")
    if len(first) > OLD_FIRST_LINE_LIMIT:
        print(f"warning: {path} is so long that the plugin needs Linux 5.1 or newer", file=sys.stderr)
    sorry = json.dumps(
        {
            "cniVersion": "1.0.0",
            "code": 107,
            "msg": f"{path} is older than Python {_dotted(OLDEST)}",
            "details": "install a newer one there, or install HeadCNI again with --python",
        }
    )
    stub = (
        "import marshal,_frozen_importlib_external as x\n"
        f"if x.MAGIC_NUMBER=={magic!r}:exec(marshal.loads(b))\n"
        f"elif sys.version_info<{OLDEST}:p.write(1,{sorry.encode()!r});p._exit(1)\n"
        f"else:exec(b[{len(code)}:])\n"
    )
    whole = first.encode() + stub.encode() + b"\0" + code + source
    if len(whole) > READ_LIMIT:
        raise Unsuitable(f"the plugin has grown to {len(whole)} bytes; raise READ_LIMIT")
    return whole


def install(content: bytes, out: Path) -> None:
    """By rename: a runtime may execute the old file at this very moment."""
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    draft.write_bytes(content)
    draft.chmod(0o755)
    draft.rename(out)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.plugin_file", description="Write the plugin as one file.")
    parser.add_argument("--python", metavar="PATH", help="the interpreter on the node; default: the best one here")
    parser.add_argument("out", type=Path, metavar="OUT", help="like /opt/cni/bin/headcni")
    options = parser.parse_args(arguments)
    try:
        interpreter = examine(options.python) if options.python else choose()
        install(build(interpreter, PLUGIN.read_bytes()), options.out)
    except (Unsuitable, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.out}: for {interpreter}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
