"""`python -m deploy.launcher.build OUT`: the plugin as one static executable, for hosts that have nothing.

`launcher.c` is linked with the libpython*.a of an installed Python and with libc.a, and holds `cni/plugin.py` as the
code that this same Python compiled (byte code is only good for the version that made it). The linker's warnings are
fatal: they are how glibc says that a static program would load files of the host after all (NSS, dlopen).

A file is tried before it gets its name: in an empty root directory where we may make one, it answers a VERSION and
leaves a DEL. Whatever is built in one place is built in another byte for byte: no path, date or build id goes in.

Exit code 3 says that something is not installed, with the command that installs it; then `make build` makes the
plain file of `deploy/plugin_file.py` instead. 1 is a fault: no fallback may hide it.

Nothing is written for one processor: no assembler, no numbers of system calls. For another one than this machine's,
with Debian's packages (`apt-get download libpython3.11-dev:arm64`, unpacked into DIR by dpkg-deb -x):

    --tree DIR --compiler aarch64-linux-gnu-gcc --emulator qemu-aarch64-static

Rejected: static-pie (a twentieth slower to start, from relocating libpython's tables; and only Debian ships
a libpython for it); link-time optimisation and a CPython of our own (minutes of building for a few percent).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.plugin_file import PLUGIN, Unsuitable, examine

SOURCE = Path(__file__).with_name("launcher.c")
COMPILER_FLAGS = ("-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers")
LINKER_FLAGS = ("-static", "-no-pie", "-s", "-Wl,--build-id=none", "-Wl,--fatal-warnings")
NOT_INSTALLED = 3

_ASK = (
    "import sys,sysconfig,json;get=sysconfig.get_config_var;"
    "json.dump([f\"{get('LIBPL')}/{get('LIBRARY')}\", get('INCLUDEPY')], sys.stdout)"
)
_COMPILE = (
    "import sys,marshal;code=compile(sys.stdin.buffer.read(),'headcni','exec',dont_inherit=True,optimize=2);"
    "sys.stdout.buffer.write(marshal.dumps(code))"
)


class NotInstalled(Exception):
    """What is missing here, and the command that installs it."""


class Broken(Exception):
    """It did not build, or what was built does not work."""


@dataclass(frozen=True, slots=True)
class Toolchain:
    python: str
    version: str  # 3.11
    library: Path
    headers: tuple[Path, ...]
    compiler: str
    emulator: tuple[str, ...] = ()  # runs what the compiler made, where this machine does not

    def __str__(self) -> str:
        return f"{self.compiler} and {self.library}"


def find(pythons: Sequence[str] = (), compiler: str = "gcc", tree: Path | None = None, emulator: str = "") -> Toolchain:
    """Of the given interpreters, or the distribution's and our own, the first one that can be linked."""
    _need_static_libc(compiler)
    complaints = []
    # The second is what our virtual environment was made of; `sys` has no public name for it.
    for python in pythons or tuple(dict.fromkeys(("/usr/bin/python3", sys._base_executable))):  # type: ignore[attr-defined]
        try:
            version, library, headers = _examine(python, tree)
            return Toolchain(python, version, library, headers, compiler, tuple(emulator.split()))
        except NotInstalled as why:
            complaints.append(str(why))
    raise NotInstalled("; ".join(complaints))


def _need_static_libc(compiler: str) -> None:
    if shutil.which(compiler) is None:
        raise NotInstalled(f"{compiler} is missing: apt-get install gcc libc6-dev")
    answer = subprocess.run([compiler, "-print-file-name=libc.a"], capture_output=True, text=True, check=True).stdout
    if not Path(answer.strip()).is_file():  # a bare name where it finds none
        raise NotInstalled(f"{compiler} finds no libc.a: apt-get install libc6-dev (elsewhere it is glibc-static)")


def _examine(python: str, tree: Path | None) -> tuple[str, Path, tuple[Path, ...]]:
    try:
        known = examine(python)
    except Unsuitable as why:
        raise NotInstalled(str(why)) from None
    version = "{}.{}".format(*known.version)
    if known.from_disk:
        raise NotInstalled(
            f"{python} has {', '.join(known.from_disk)} not built in; Debian's has: apt-get install python3"
        )
    if tree is None:
        answer = subprocess.run([python, "-ISc", _ASK], capture_output=True, check=True).stdout
        library, *headers = map(Path, json.loads(answer))
    else:
        found = tree.glob(f"usr/lib/python{version}/config-*/libpython{version}.a")
        library = next(found, tree / f"libpython{version}.a")
        headers = [tree / "usr/include" / f"python{version}", tree / "usr/include"]
    if not library.is_file() or not (headers[0] / "Python.h").is_file():
        where = f"unpack libpython{version}-dev into {tree}" if tree else f"apt-get install libpython{version}-dev"
        raise NotInstalled(f"{python} has no libpython{version}.a and Python.h: {where}")
    return version, library, tuple(headers)


def build(tools: Toolchain, source: bytes, room: Path) -> Path:
    """The executable, in `room`; not tried yet."""
    return compile_with(tools, source, room, (SOURCE,))


def compile_with(
    tools: Toolchain, source: bytes, room: Path, program: Sequence[Path], more_flags: Sequence[str] = ()
) -> Path:
    """A program that includes interpreter.h, with the plugin frozen in."""
    code = subprocess.run([tools.python, "-ISc", _COMPILE], input=source, capture_output=True, check=True).stdout
    numbers = ",".join(map(str, code))
    (room / "plugin_code.h").write_text(f"static const unsigned char plugin_code[] = {{{numbers}}};\n")
    made = room / "headcni"
    include = [f"-I{each}" for each in (room, *tools.headers)]
    flags = [*COMPILER_FLAGS, *include, *more_flags]
    command: list[str | Path] = [tools.compiler, *flags, *program, tools.library, "-lm", *LINKER_FLAGS, "-o", made]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Broken(f"{program[0].name} does not build with {tools}:\n{done.stderr}")
    return made


def try_out(made: Path, emulator: Sequence[str] = ()) -> None:
    """A VERSION and a DEL, by the name of the IPAM plugin."""
    with tempfile.TemporaryDirectory(dir=made.parent) as directory:
        root = Path(directory)
        shutil.copy(made, root / "headcni-ipam")
        (answer,) = _call("VERSION", root, emulator)
        if answer["cniVersion"] != "1.0.0":
            raise Broken(f"the new plugin answers a VERSION with {answer}")
        if list(_call("DEL", root, emulator)):
            raise Broken("the new plugin answers a DEL, which has no answer")
        (left,) = (root / "state" / "intents").iterdir()
        intent = json.loads(left.read_bytes())
        if (intent["verb"], intent["plugin"]) != ("DEL", "headcni-ipam"):
            raise Broken(f"the new plugin leaves as a DEL of headcni-ipam: {intent}")


def _call(verb: str, root: Path, emulator: Sequence[str]) -> Iterator[dict[str, Any]]:
    """In a directory that is its whole world, where we are root; else, and in an emulator, among our own files."""
    alone = os.geteuid() == 0 and not emulator
    seen = Path("/") if alone else root
    config = {"cniVersion": "1.0.0", "name": "n", "state_dir": str(seen / "state")}
    try:
        done = subprocess.run(
            [*emulator, seen / "headcni-ipam"],
            env={"CNI_COMMAND": verb, "CNI_CONTAINERID": "try", "CNI_IFNAME": "eth0"},
            input=json.dumps(config).encode(),
            capture_output=True,
            timeout=30,
            check=False,
            preexec_fn=(lambda: os.chroot(root)) if alone else None,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Broken(f"the new plugin does not run: {error}") from None
    if done.returncode:
        raise Broken(f"the new plugin ended a {verb} with {done.returncode}: {(done.stdout + done.stderr).decode()}")
    return (json.loads(line) for line in done.stdout.splitlines())


def make(tools: Toolchain, out: Path) -> None:
    """In rooms beside OUT: /tmp may be on another file system, or forbid to execute. OUT is replaced in one step."""
    with tempfile.TemporaryDirectory(prefix=".launcher-", dir=out.parent) as room:
        made = build(tools, PLUGIN.read_bytes(), Path(room))
        try_out(made, tools.emulator)
        made.rename(out)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.launcher.build", description="The plugin as a static file.")
    parser.add_argument("--python", metavar="PATH", help="the interpreter whose libpython*.a is linked")
    parser.add_argument("--compiler", metavar="CC", default="gcc")
    parser.add_argument("--tree", metavar="DIR", type=Path, help="where libpython*-dev of another processor lies")
    parser.add_argument("--emulator", metavar="COMMAND", default="", help="what runs that processor's programs")
    parser.add_argument("out", type=Path, metavar="OUT", help="like build/headcni")
    options = parser.parse_args(arguments)
    try:
        pythons = (options.python,) if options.python else ()
        tools = find(pythons, options.compiler, options.tree, options.emulator)
        make(tools, options.out)
    except (NotInstalled, Broken, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return NOT_INSTALLED if isinstance(error, NotInstalled) else 1
    print(f"{options.out}: one static file of {options.out.stat().st_size >> 10} KiB, with Python {tools.version}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
