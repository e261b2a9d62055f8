"""A process that stays on its node: how long it computed, and what memory it has.

Processor time is that of the process as a whole, threads that have ended and children that were waited for included:
an agent at rest consists of short-lived threads and small helpers. The kernel's clock for a process is exact; that of
children is in hundredths of a second.

Resident memory counts in full what is shared with other processes, PSS counts a part of it, and private memory is what
would be free again without this process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_CPUCLOCK_SCHED = 2


@dataclass(frozen=True)
class Memory:
    """In MiB."""

    resident: float
    pss: float
    private: float


def memory(pid: int) -> Memory:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    size = {name: int(number) / 1024 for name, number, _ in map(str.split, lines)}
    return Memory(size["Rss:"], size["Pss:"], size["Private_Clean:"] + size["Private_Dirty:"])


def own_seconds(pid: int) -> float:
    """Without its children."""
    return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)  # what clock_getcpuclockid(3) would answer


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return own_seconds(pid) + sum(map(int, fields[13:15])) / _TICKS


def busy_seconds() -> float:
    """Of all processors of this machine, whoever computes."""
    counted = Path("/proc/stat").read_text().partition("\n")[0].split()
    user, nice, system, _idle, _waiting, interrupts, soft = map(int, counted[1:8])
    return (user + nice + system + interrupts + soft) / _TICKS


@contextmanager
def running(command: Sequence[str], log: Path, env: Mapping[str, str], cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """In the namespace that the caller has entered."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=cwd, stdout=file, stderr=file, env=env)
    try:
        yield process
    except Exception:
        print(f"the last words of {command[0]}:", *log.read_text().splitlines()[-5:], sep="\n  ", file=sys.stderr)
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
