"""Forwarding, switched on so that it can be switched off again without a trace.

One write to `ip_forward` changes more than itself: the kernel copies it to every interface, and turns the
acceptance of ICMP redirects the other way round. With IPv6 it also ends the acceptance of router advertisements
wherever `accept_ra` is 1, so a node that got its address or default route that way would lose them minutes later;
2 means "although forwarding". That is set only where we are the one who switches forwarding on, and before it:
elsewhere 1 already meant "no", and a 2 would let whoever sits behind that interface become the node's router.

So before the first change, everything it will touch goes into `host.json` with its original and with what it will
be. The original is recorded once: a second run keeps it, and a kill between record and change is harmless. A
record of another boot or another network namespace speaks of values that no longer exist and is void. `restore`
puts back only what still is as we left it.

In a container /proc/sys is read-only. There the host's /proc/sys/net is mounted below its root (`tree`); it shows the
network namespace of the thread that looks, so it is the same tree.

`rp_filter` is not touched, for strict mode holds with our wiring: the route to a pod leads out of the very veth
its packets come in by, and the route to another node's pods leads to where their packets come from.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from reconciler.node.wish import LINK_PREFIX, Problem

FORMAT = "headcni/host/1"
PROC_SYS = Path("/proc/sys")
FORWARD4 = "net/ipv4/ip_forward"
FORWARD6 = "net/ipv6/conf/all/forwarding"
_REDIRECTS = "net/ipv4/conf/all/accept_redirects"
_AFFECTED4 = ("net/ipv4/conf/*/forwarding", _REDIRECTS)
_AFFECTED6 = ("net/ipv6/conf/*/forwarding", "net/ipv6/conf/*/accept_ra")


@dataclass(frozen=True, slots=True)
class Touched:
    original: str
    ours: str


@dataclass(frozen=True, slots=True)
class Plan:
    writes: Mapping[str, str]  # in this order
    touched: Mapping[str, Touched]  # the writes, and what the kernel does by itself because of them


@dataclass(frozen=True, slots=True)
class NewerFormat:
    file: Path
    format: str

    def __str__(self) -> str:
        return f"{self.file} has the format {self.format}, this program knows {FORMAT}: use the program that wrote it"


def plan(before: Mapping[str, str], ipv6: bool) -> Plan:
    """`before` has every key of the tree that may be touched; pure."""
    writes: dict[str, str] = {}
    after: dict[str, str] = {}
    if before.get(FORWARD4) != "1":
        writes[FORWARD4] = after[FORWARD4] = "1"
        after |= {key: "1" for key in before if key.startswith("net/ipv4/conf/") and key.endswith("/forwarding")}
        after[_REDIRECTS] = "0"
    if ipv6 and before.get(FORWARD6) != "1":
        writes |= {key: "2" for key, value in before.items() if value == "1" and _listens_to_routers(key)}
        writes[FORWARD6] = after[FORWARD6] = "1"
        after |= {key: "1" for key in before if key.startswith("net/ipv6/conf/") and key.endswith("/forwarding")}
        after |= writes
    return Plan(writes, {key: Touched(before[key], ours) for key, ours in after.items() if key in before})


def _listens_to_routers(key: str) -> bool:
    interface, _, name = key.removeprefix("net/ipv6/conf/").rpartition("/")
    return name == "accept_ra" and interface not in ("all", "default", "lo") and not interface.startswith(LINK_PREFIX)


def dotted(key: str) -> str:
    return key.replace(".", "%").replace("/", ".").replace("%", "/")  # sysctl(8) swaps them: eth0.5 becomes eth0/5


def tree(host_root: Path) -> Path:
    """The one that may be written."""
    mounted = host_root / "proc" / "sys"
    return mounted if (mounted / "net").is_dir() else PROC_SYS


def _boot_id(proc_sys: Path) -> str:
    own = proc_sys / "kernel/random/boot_id"
    return (own if own.exists() else PROC_SYS / "kernel/random/boot_id").read_text().strip()


class Sysctls:
    def __init__(self, state_dir: Path, proc_sys: Path) -> None:
        self._file = state_dir / "host.json"
        self._proc_sys = proc_sys
        self._refusals: dict[str, str] = {}

    def prepare(self, ipv6: bool) -> tuple[str, ...]:
        self._refusals = {}
        if not self._off(ipv6):
            return ()
        change = plan(self._tree(ipv6), ipv6)
        if unrecorded := self._record(change.touched):
            self._refusals = dict.fromkeys(change.writes, unrecorded)
            return ()
        return tuple(filter(None, (self._write(key, value) for key, value in change.writes.items())))

    def problems(self, ipv6: bool) -> tuple[Problem, ...]:
        return tuple(
            Problem(
                f"{dotted(key)} is not 1: no packet passes between pods and other nodes",
                self._refusals.get(key, f"run `sysctl -w {dotted(key)}=1`, and find out what set it to something else"),
            )
            for key in self._off(ipv6)
        )

    def restore(self) -> tuple[str | Problem, ...]:
        """Switches first, then what the kernel copied from them: the order they were recorded in."""
        self._refusals = {}
        record = self._recorded()
        if isinstance(record, NewerFormat):
            return (Problem(f"the sysctls are not put back: {self._file} is newer", str(record)),)
        done: list[str | Problem] = []
        mine = []
        for key, was in record.items():
            now = self._read(key)
            if now == was.ours:
                mine.append(key)
            elif now not in (None, was.original):
                done.append(
                    f"left {dotted(key)} at {now}: somebody changed it "
                    f"(we had set {was.ours}, before us it was {was.original})"
                )
        done += filter(None, [self._write(key, record[key].original) for key in mine])
        done += [Problem(f"{dotted(key)} is not put back", why) for key, why in self._refusals.items()]
        if not self._refusals:
            self._file.unlink(missing_ok=True)
        return tuple(done)

    # --- the tree

    def _off(self, ipv6: bool) -> list[str]:
        return [key for key in (FORWARD4, FORWARD6)[: 1 + ipv6] if self._read(key) != "1"]

    def _tree(self, ipv6: bool) -> dict[str, str]:
        found = {FORWARD4: self._read(FORWARD4)}
        for pattern in (*_AFFECTED4, *(_AFFECTED6 if ipv6 else ())):
            for path in sorted(self._proc_sys.glob(pattern)):
                key = path.relative_to(self._proc_sys).as_posix()
                if key != "net/ipv4/conf/all/forwarding":  # another name of ip_forward
                    found[key] = self._read(key)
        return {key: value for key, value in found.items() if value is not None}

    def _read(self, key: str) -> str | None:
        try:
            return (self._proc_sys / key).read_text().strip()
        except (FileNotFoundError, NotADirectoryError):
            return None  # the interface went away, or the kernel has no IPv6

    def _write(self, key: str, value: str) -> str | None:
        """What was changed, in words; None where nothing was."""
        before = self._read(key)
        if before == value:
            return None
        try:
            (self._proc_sys / key).write_text(value)
        except OSError as error:
            self._refusals[key] = (
                f"writing it failed ({os.strerror(error.errno or 0)}); run the daemon privileged, with IPv6 in the "
                "kernel if IPv6 is asked for, or set it in /etc/sysctl.d"
            )
            return None
        return f"{dotted(key)}: {before} -> {value}"

    # --- the record

    def _here(self) -> dict[str, str]:
        namespace = os.stat("/proc/thread-self/ns/net")
        netns = f"{namespace.st_dev}:{namespace.st_ino}"
        return {"format": FORMAT, "boot_id": _boot_id(self._proc_sys), "netns": netns}

    def _recorded(self) -> dict[str, Touched] | NewerFormat:
        try:
            content = self._file.read_bytes()
        except FileNotFoundError:
            return {}
        try:
            document = orjson.loads(content)
            if document["format"] != FORMAT:
                return NewerFormat(self._file, str(document["format"]))
            record = {key: Touched(entry["original"], entry["ours"]) for key, entry in document["sysctls"].items()}
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            self._quarantine()
            return {}
        return record if all(document.get(key) == value for key, value in self._here().items()) else {}

    def _record(self, touched: Mapping[str, Touched]) -> str | None:
        """Why it could not be recorded, if so."""
        earlier = self._recorded()
        if isinstance(earlier, NewerFormat):
            return str(earlier)
        entries = {key: {"original": t.original, "ours": t.ours} for key, t in {**touched, **earlier}.items()}
        draft = self._file.with_suffix(".draft")
        try:
            draft.write_bytes(orjson.dumps({**self._here(), "sysctls": entries}, option=orjson.OPT_INDENT_2))
            draft.rename(self._file)
        except OSError as error:
            draft.unlink(missing_ok=True)
            return f"its original cannot be recorded in {self._file}: {os.strerror(error.errno or 0)}"
        return None

    def _quarantine(self) -> None:
        aside = self._file.parent / "quarantine"
        aside.mkdir(mode=0o700, exist_ok=True)
        self._file.rename(aside / self._file.name)
        with contextlib.suppress(OSError):  # a full disk
            (aside / "host.json.reason").write_text("this is no record of HeadCNI's: originals of sysctls unknown\n")
