"""The packet filter's chains, and the rules of those few that decide whether pods' packets pass.

nft shows what nftables holds, which is what iptables-nft writes as well. What the older iptables (iptables-legacy) has
only its own command shows, which is often not there; then that is said (`blind`) and nothing is concluded from it.

This is for people who ask why, never for what the daemon does: listings change between releases of nft, and one of a
node with thousands of Services is megabytes. So every command has a time and a size.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

import orjson

from reconciler.node.listings import Chain, Listing, Rules, chains_in, rules_in, saved_chains, saved_rules

SECONDS = 5.0
MAX_BYTES = 16 << 20
LEGACY = {"ip": "iptables-legacy-save", "ip6": "ip6tables-legacy-save"}
_LEGACY_TABLES = {"ip": "ip_tables_names", "ip6": "ip6_tables_names"}


@dataclass(frozen=True, slots=True)
class Chains:
    found: tuple[Chain, ...]
    blind: tuple[str, ...] = ()  # what could not be looked at, and why


def chains() -> Chains:
    listing = _nft("list", "chains")
    found = [] if isinstance(listing, str) else list(chains_in(listing))
    blind = [listing] if isinstance(listing, str) else []
    for family, command in LEGACY.items():
        for table in _legacy_tables(family):
            saved = _run(command, "-t", table)
            if isinstance(saved, bytes):
                found += saved_chains(family, table, saved.decode(errors="replace"))
            else:
                blind.append(f"{table} of the older iptables: {saved}")
    return Chains(tuple(found), tuple(blind))


def rules(chain: Chain, alone: bool = False) -> Rules | str:
    """Of the whole table, or of this chain alone; or why they could not be read."""
    if chain.legacy:
        saved = _run(LEGACY[chain.family], "-t", chain.table)
        return saved_rules(saved.decode(errors="replace")) if isinstance(saved, bytes) else saved
    what = ("chain", chain.family, chain.table, chain.name) if alone else ("table", chain.family, chain.table)
    listing = _nft("list", *what)
    return listing if isinstance(listing, str) else rules_in(listing)


def _legacy_tables(family: str) -> list[str]:
    file = Path("/proc/thread-self/net", _LEGACY_TABLES[family])
    if not os.access(file, os.R_OK):  # not there; or this is not root, and nft says so
        return []
    present = file.read_text().split()
    return [table for table in ("filter", "nat") if table in present]


def _nft(*words: str) -> Listing | str:
    written = _run("nft", "--json", *words)
    if isinstance(written, str):
        return written
    try:
        listing: Listing = orjson.loads(written)["nftables"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return f"nft {' '.join(words)} did not write what it should"
    return listing


def _run(command: str, *words: str) -> bytes | str:
    """What it wrote, or why there is nothing to be read."""
    binary = shutil.which(command, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if binary is None:
        return f"the command {command} is missing"
    with subprocess.Popen((binary, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        too_long = threading.Timer(SECONDS, process.kill)
        too_long.start()
        written = process.stdout.read(MAX_BYTES + 1) if process.stdout else b""
        process.kill() if len(written) > MAX_BYTES else process.wait()
        in_time = too_long.is_alive()
        too_long.cancel()
        told = process.stderr.read(1000).decode(errors="replace") if process.stderr else ""
    if len(written) > MAX_BYTES:
        return f"{command} wrote more than {MAX_BYTES >> 20} MiB"
    if not in_time:
        return f"{command} took longer than {SECONDS:g} s"
    if process.returncode != 0:
        return f"{command} failed: {(told.strip().splitlines() or ['no reason given'])[0]}"
    return written
