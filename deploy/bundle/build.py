"""`python -m deploy.bundle.build OUT`: the daemon and the command for hosts without Python, or with another C library.

OUT becomes one directory in a .tar.gz. It has the same files as the image (deploy/image), in another order:

    headcni-VERSION/bin/        headcni, nft, ip, python3: each the same static launcher (launcher.c)
                    libexec/    what it starts, by the loader that is in lib/
                    lib/        the C library and others; Python's modules, only as byte code
                    etc/ssl/    certificates of public authorities
                    plugin/     what `headcni install` brings to where the runtime looks
                    share/      the systemd unit; licences

It may lie anywhere. Same packages, same bytes.

Rejected: writing the loader's path into the programs (an absolute one, so it lies in one place only), a static Python
(it cannot load the wheels' libraries), a file that unpacks itself (it leaks, and needs a /tmp that may execute).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from deploy.image import layers, own
from deploy.image.cache import Missing
from deploy.image.contents import REPOSITORY, TRIPLETS, project
from deploy.image.interpreter import own_arch
from deploy.image.layers import Layers
from deploy.image.tree import Entry, File, Link, Tree, as_layer, of_layer

LAUNCHER = Path(__file__).with_name("launcher.c")
UNIT = REPOSITORY / "deploy" / "systemd"
PROGRAMS = {"usr/bin/python3.11": "python3", "usr/bin/headcni": "headcni.py", "usr/sbin/nft": "nft", "usr/bin/ip": "ip"}
FOLDERS = {
    "usr/lib/python3": "lib/python3",
    "etc/ssl/": "etc/ssl/",
    "opt/headcni/plugin/": "plugin/",
    "usr/share/common-licenses/": "share/common-licenses/",
    "usr/share/doc/": "share/doc/",
}


def arranged(image: Mapping[str, Entry], arch: str) -> Tree:
    libraries = f"lib/{TRIPLETS[arch]}/"
    folders = {**FOLDERS, f"usr/{libraries}": libraries}
    tree: Tree = {}
    for name, entry in image.items():
        if isinstance(entry, Link) and name.endswith(".py"):
            name, entry = f"{name}c", Link(f"{entry.target}c")
        if moved := _moved(name, folders):
            tree[moved] = entry
    return tree


def _moved(name: str, folders: Mapping[str, str]) -> str:
    """Empty for what stays behind."""
    if name in PROGRAMS:
        return f"libexec/{PROGRAMS[name]}"
    if name.endswith(".py"):
        return ""
    folder, _, file = name.rpartition("/")
    if folder.endswith("/__pycache__"):  # to where it needs no source beside it
        name = f"{folder.removesuffix('__pycache__')}{file.partition('.')[0]}.pyc"
    return next((name.replace(old, new, 1) for old, new in folders.items() if name.startswith(old)), "")


def launcher(arch: str, loader: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="headcni-bundle-") as room:
        made = Path(room, "launcher")
        names = (f'-DTRIPLET="{TRIPLETS[arch]}"', f'-DLOADER="{loader}"')
        flags = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-static", "-s", "-Wl,--build-id=none,--fatal-warnings")
        try:
            subprocess.run([own.compiler(arch), *flags, *names, LAUNCHER, "-o", made], check=True)
        except FileNotFoundError:
            raise Missing(f"{own.compiler(arch)} is missing: apt-get install gcc libc6-dev") from None
        return made.read_bytes()


def bundle(made: Layers, arch: str) -> bytes:
    tree = arranged(of_layer(made.base) | of_layer(made.dependencies) | of_layer(made.ours), arch)
    (loader,) = (Path(name).name for name in tree if Path(name).match("lib/*/ld-linux-*"))
    tree["bin/headcni"] = File(launcher(arch, loader), executable=True)
    tree |= {f"bin/{name}": Link("headcni") for name in PROGRAMS.values() if not name.startswith("headcni")}
    tree |= {f"share/systemd/{file.name}": File(file.read_bytes()) for file in UNIT.iterdir()}
    top = f"headcni-{project()['version']}"
    return as_layer({f"{top}/{name}": entry for name, entry in tree.items()})


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.bundle.build", description="HeadCNI as one directory.")
    parser.add_argument("out", type=Path, metavar="OUT", help="like build/headcni-bundle.tar.gz")
    parser.add_argument("--arch", choices=TRIPLETS, default=own_arch())
    parser.add_argument("--loopback", type=Path, metavar="FILE", help="the standard plugin; default: built with Go")
    parser.add_argument("--fresh", action="store_true", help="ask for newer packages than those in the cache")
    options = parser.parse_args(arguments)
    try:
        made = layers.make(options.arch, options.loopback, options.fresh)
        content = bundle(made, options.arch)
    except (Missing, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    options.out.write_bytes(content)
    print(f"{options.out}: {len(content) / 1e6:.1f} MB for {options.arch}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
