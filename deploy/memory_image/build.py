"""`python -m deploy.memory_image.build OUT`: the plugin in an interpreter that has started already.

Nine tenths of the launcher's time go into making CPython's objects, the same ones for each pod. Here they are made
once, when the plugin is built: a program starts the interpreter, loads the plugin and writes its memory to a file;
that file is a program again, which begins where the other one ended (image.c). Emacs did so for thirty years.

What is in the memory is what was there: so the program that is written runs without an environment, and at fixed
addresses. There is no randomisation of addresses, but of stack and mappings; hashes and their seed are known. Both
are good enough for a program that reads what the container runtime, which is root, gives it.

The image is not made of anything CPython promises. So it is off by default, and whatever goes wrong, in building
or in the trial (trial.py: every verb, big and broken input, late answers, many at once, signals, an empty root), ends
with exit code 3 and without a file; `make build FORM=image` then takes the launcher, which is the same plugin.

Rejected: an own entry with system calls by number instead of libc's (faster by nothing, and for one processor only);
restoring with CRIU or by a fork server (a process that must live; the daemon may be dead); glibc (it chooses
functions by the processor it starts on, and keeps addresses behind a secret of the process).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from deploy.launcher.build import NOT_INSTALLED, Broken, NotInstalled, Toolchain, compile_with
from deploy.memory_image import libpython
from deploy.memory_image.elf import with_memory
from deploy.memory_image.trial import prove
from deploy.plugin_file import PLUGIN

HERE = Path(__file__).parent
PROGRAM = (HERE / "image.c", HERE / "memory.c")
# malloc must not be recognised in malloc; the region must not lie between data and what follows it.
FLAGS = ("-fno-builtin", "-Wl,-z,norelro", "-Wl,--section-start=.region=0x10000000")


def build(tools: Toolchain, source: bytes, room: Path) -> Path:
    """The image, in `room`; not tried yet."""
    program = compile_with(tools, source, room, PROGRAM, FLAGS)
    return write_image(program)


def write_image(program: Path) -> Path:
    """By a name that is the same everywhere: the kernel puts it on the stack, whose addresses are in the memory."""
    fixed = ("setarch", "--addr-no-randomize") if shutil.which("setarch") else ()
    done = subprocess.run(
        [*fixed, f"./{program.name}"], cwd=program.parent, env={}, capture_output=True, check=False, timeout=60
    )
    if done.returncode:
        raise Broken(f"the interpreter does not start to be written: {done.stderr.decode()}")
    image = program.with_name("image")
    image.write_bytes(with_memory(program.read_bytes(), done.stdout))
    image.chmod(0o755)
    return image


def make(tools: Toolchain, out: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".image-", dir=out.parent) as room:
        image = build(tools, PLUGIN.read_bytes(), Path(room))
        prove(image)
        image.rename(out)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.memory_image.build", description="The plugin as an image.")
    parser.add_argument("out", type=Path, metavar="OUT", help="like build/headcni")
    options = parser.parse_args(arguments)
    try:
        tools = libpython.find_or_build()
        make(tools, options.out)
    except (NotInstalled, Broken, OSError, subprocess.SubprocessError) as error:
        print(f"error: no memory image: {error}", file=sys.stderr)
        return NOT_INSTALLED
    print(f"{options.out}: a memory image of {options.out.stat().st_size >> 10} KiB, with Python {tools.version}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
