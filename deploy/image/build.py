"""`python -m deploy.image.build OUT`: HeadCNI's image, without a container engine, and without being root.

OUT becomes an archive in the OCI's format; with --folders a directory with the files of each layer, which the
Dockerfile copies. So there is one program that puts the image together, from one list, `contents.toml`.

It needs Debian bookworm's apt (not to install, only to fetch), pip, gcc, and Go or --loopback; for another processor
also its cross compiler and qemu-user-static. From the same packages come the same bytes. $SOURCE_DATE_EPOCH, where it
is set, becomes the time of the image, not that of its files: else each build would move every layer.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from deploy.image import layers, oci
from deploy.image.cache import Missing
from deploy.image.contents import TRIPLETS, contents, project
from deploy.image.interpreter import own_arch
from deploy.image.layers import Layers
from deploy.image.tree import of_layer, write_out


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.image.build", description="Build HeadCNI's image.")
    parser.add_argument("out", type=Path, metavar="OUT", help="like build/headcni-image.tar")
    parser.add_argument("--arch", choices=TRIPLETS, default=own_arch())
    parser.add_argument("--name", default=default_name(), help="of the image; default: %(default)s")
    parser.add_argument("--loopback", type=Path, metavar="FILE", help="the standard plugin; default: built with Go")
    parser.add_argument("--folders", action="store_true", help="OUT becomes a directory with base, dependencies, ours")
    parser.add_argument(
        "--fresh", action="store_true", help="ask for newer packages, though there are some in the cache"
    )
    options = parser.parse_args(arguments)
    try:
        made = layers.make(options.arch, options.loopback, options.fresh)
    except (Missing, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.folders:
        write_folders(made, options.out)
    else:
        options.out.write_bytes(packed(made, options.arch, options.name))
    sizes = ", ".join(f"{name} {len(getattr(made, name)) / 1e6:.1f} MB" for name in Layers.__slots__)
    print(f"{options.out}: {options.name} for {options.arch}; compressed: {sizes}")
    return 0


def default_name() -> str:
    return f"localhost/headcni:{project()['version']}"


def packed(made: Layers, arch: str, name: str = "") -> bytes:
    moment = os.environ.get("SOURCE_DATE_EPOCH")
    created = int(moment) if moment else None
    return oci.archive((made.base, made.dependencies, made.ours), config(), arch, name or default_name(), created)


def config() -> dict[str, Any]:
    known = contents().config
    return {**known, "Labels": {**known["Labels"], "org.opencontainers.image.version": project()["version"]}}


def write_folders(made: Layers, out: Path) -> None:
    for name in Layers.__slots__:
        (out / name).mkdir(parents=True)
        write_out(of_layer(getattr(made, name)), out / name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
