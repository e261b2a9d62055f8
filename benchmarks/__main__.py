"""`make bench`, or `python -m benchmarks`: everything in one run; `--only` for a part of it."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import box, burst, footprint, headcni, kube, mesh, scale, sequential, start
from fixtures.peers import cache
from fixtures.peers.system import cache_root

PLUGINS = "HEADCNI_BENCH_PLUGINS"
PARTS = {
    "start": (start.run, 200),
    "sequential": (sequential.run, 100),
    "burst": (burst.run, 4),
    "scale": (scale.run, 60),
    "footprint": (footprint.run, 1),
    "mesh": (mesh.run, 60),
    "kube": (kube.run, 60),
}


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    work = box.work_directory()
    if work is not None:
        return _inside(work, options)
    plugins = _standard_plugins()
    with tempfile.TemporaryDirectory(prefix="headcni-bench-", dir=_place()) as made:
        return box.run_inside(Path(made), arguments, os.environ | {PLUGINS: str(plugins)})


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=box.__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--plugin-form", choices=headcni.FORMS, default="launcher", help=", ".join(headcni.FORMS))
    parser.add_argument("--rounds", type=int, metavar="N", help="instead of each part's own number")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    return parser.parse_args(arguments)


def _inside(work: Path, options: argparse.Namespace) -> int:
    box.furnish()
    headcni.build_plugin(work, options.plugin_form)
    plugins = Path(os.environ[PLUGINS])
    print(f"ours ({options.plugin_form}) beside {plugins}; ratios first, times are of this machine under today's load")
    reports = []
    for part in options.only:
        run, rounds = PARTS[part]
        reports.append(run(work, plugins, options.rounds or rounds))
        reports[-1].print()
    if options.json:
        options.json.write_text(json.dumps([report.as_json() for report in reports], indent=2) + "\n")
    missed = [figure.name for report in reports for figure in report.figures if figure.verdict == "missed"]
    print(f"\n{len(missed)} goals missed" + "".join(f"\n  {name}" for name in missed))
    return 0


def _place() -> str | None:
    """On the file system that holds the state of a real node: what a new file costs depends on it."""
    usual = "/var/lib"
    return usual if os.access(usual, os.W_OK) else None


def _standard_plugins() -> Path:
    """Those that `make peers` builds; else Debian's, older, from its package, unpacked into the same cache."""
    try:
        return cache.find("plugins", "ptp").parent
    except cache.MissingPeer as missing:
        print(f"{missing}; until then with Debian's, which are older", file=sys.stderr)
    unpacked = cache_root() / "plugins-debian"
    found = unpacked / "usr" / "lib" / "cni"
    if not found.exists():
        with tempfile.TemporaryDirectory() as download:
            subprocess.run(["apt-get", "download", "containernetworking-plugins"], cwd=download, check=True)
            package = next(Path(download).glob("*.deb"))
            subprocess.run(["dpkg-deb", "-x", package, unpacked], check=True)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
