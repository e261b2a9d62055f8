"""What an image must do before anybody gets it, against a daemon that is played here.

Not all that the tests try, which need a laboratory, but each thing that an image could lose by being written to a file:
clocks, memory (small, big, much), exceptions and codecs, waiting, signals, files, the environment of its own process.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from deploy.launcher.build import Broken

PATIENCE = 20.0
MIB = 1 << 20


@dataclass(frozen=True)
class World:
    """A directory that holds the plugin and nothing else; the plugin's root where we may make it so."""

    root: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def alone(self) -> bool:
        return os.geteuid() == 0

    @property
    def state(self) -> Path:
        return self.root / "state"

    def config(self, **more: object) -> bytes:
        state = "/state" if self.alone else str(self.state)
        return json.dumps({"cniVersion": "1.1.0", "name": "n", "state_dir": state, **more}).encode()

    def start(
        self, verb: str, config: bytes, container: str = "box", **changed: str | bytes
    ) -> subprocess.Popen[bytes]:
        given = {"CNI_COMMAND": verb, "CNI_CONTAINERID": container, "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "eth0"}
        process = subprocess.Popen(
            ["/headcni" if self.alone else self.root / "headcni"],
            env={**given, **changed},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=self._enter,
        )
        self.started.append(process)
        assert process.stdin
        with suppress(BrokenPipeError), process.stdin:  # it does not read what is too much
            process.stdin.write(config)
        process.stdin = None
        return process

    def _enter(self) -> None:
        """A shell ignores SIGINT in what it starts in the background, and that is inherited."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self.alone:
            os.chroot(self.root)

    def end(self) -> None:
        """What a trial that failed has left running."""
        for process in self.started:
            if process.stdout and not process.stdout.closed:
                process.kill()
                process.communicate()

    def call(self, verb: str, config: bytes | None = None) -> tuple[int, bytes]:
        return _ended(self.start(verb, self.config() if config is None else config))

    def intents(self, count: int = 1) -> list[Path]:
        give_up = time.monotonic() + PATIENCE
        while len(found := sorted((self.state / "intents").iterdir())) < count:
            if time.monotonic() > give_up or all(each.poll() is not None for each in self.started):
                raise Broken(f"{count} calls left {len(found)} intents")
            time.sleep(0.002)
        return found

    def answer(self, intent: Path, content: bytes) -> None:
        draft = self.state / "tmp" / "answer"
        draft.write_bytes(content)
        draft.rename(self.state / "results" / (intent.name.rsplit(".", 2)[0] + ".result"))
        intent.unlink()

    @contextmanager
    def daemon(self) -> Iterator[None]:
        lock = os.open(self.state / "daemon.lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(lock)


def prove(program: Path) -> None:
    """Raises Broken, which names the trial."""
    for trial in (_verbs, _answers, _broken, _big, _late, _many, _signals):
        with tempfile.TemporaryDirectory(dir=program.parent) as directory:
            world = World(Path(directory))
            shutil.copy(program, world.root / "headcni")
            for each in ("tmp", "intents", "results"):
                (world.state / each).mkdir(parents=True)
            try:
                trial(world)
            except (Broken, OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
                raise Broken(f"trial {trial.__name__}: {type(error).__name__}: {error}") from error
            finally:
                world.end()


def _verbs(world: World) -> None:
    _expect("VERSION", json.loads(world.call("VERSION")[1])["cniVersion"], "1.1.0")
    for verb in ("ADD", "CHECK", "GC"):
        code, out = world.call(verb, world.config(timeout_seconds=1))
        _expect(f"{verb} without a daemon", (code, json.loads(out)["code"]), (1, 11))
    _expect("STATUS without a daemon", json.loads(world.call("STATUS")[1])["code"], 50)
    _expect("DEL without a daemon", world.call("DEL"), (0, b""))
    (left,) = world.intents()
    _expect("its intent", json.loads(left.read_bytes())["env"]["CNI_CONTAINERID"], "box")


def _answers(world: World) -> None:
    _expect_answer(world, b"exactly this\0", "ADD")
    _expect_answer(world, os.urandom(3 * MIB), "CHECK")
    with world.daemon():
        (world.state / "status.json").write_text(json.dumps({"cni_code": 0, "cni_beat": time.monotonic_ns()}))
        _expect("STATUS", world.call("STATUS"), (0, b""))
        gone = world.start("DEL", world.config())
        world.intents()[0].unlink()
        _expect("DEL", _ended(gone), (0, b""))


def _broken(world: World) -> None:
    for config in (
        b"",
        b"{{{",
        b"\xff\xfe",
        b'{"state_dir": "relative"}',
        world.config(timeout_seconds=1)[:-9] + b"\xff",
    ):
        code, out = world.call("STATUS", config)
        if code != 1 or json.loads(out)["code"] not in (7, 50):
            raise Broken(f"configuration {config!r} is answered by {out!r}")
    for name, value in (("CNI_IFNAME", "a b"), ("CNI_NETNS", b"\xff"), ("CNI_CONTAINERID", "..")):
        code, out = _ended(world.start("ADD", world.config(), "box", **{name: value}))
        _expect(f"ADD with {name}={value!r}", (code, json.loads(out)["code"]), (1, 4))


def _big(world: World) -> None:
    _expect_answer(world, b"{}", "ADD", world.config(padding="x\n" * 5 * MIB))
    code, out = world.call("ADD", world.config(padding="x" * 17 * MIB))
    _expect("an endless configuration", (code, json.loads(out)["code"]), (1, 7))


def _late(world: World) -> None:
    _expect_answer(world, b"late", "ADD", wait=0.4)


def _many(world: World) -> None:
    with world.daemon():
        calls = {f"box{n}": world.start("ADD", world.config(), f"box{n}") for n in range(12)}
        for intent in world.intents(len(calls)):
            world.answer(intent, intent.name.partition("-")[2].partition("@")[0].encode())
        for name, call in calls.items():
            _expect(f"{name} among others", _ended(call), (0, name.encode()))


def _signals(world: World) -> None:
    with world.daemon():
        for number in (signal.SIGTERM, signal.SIGINT):
            call = world.start("ADD", world.config())
            (intent,) = world.intents()
            call.send_signal(number)
            _expect(f"ended by {number.name}", _ended(call)[0], -number)
            intent.unlink()


def _expect_answer(world: World, content: bytes, verb: str, config: bytes = b"", wait: float = 0.0) -> None:
    with world.daemon():
        call = world.start(verb, config or world.config())
        (intent,) = world.intents()
        time.sleep(wait)
        carried = json.loads(intent.read_bytes())["config"].encode()
        _expect(f"what {verb} carries", carried, config or world.config())
        world.answer(intent, content)
        _expect(f"{verb} answered", _ended(call), (0, content))


def _ended(call: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    out, _ = call.communicate(timeout=PATIENCE)
    return call.returncode, out


def _expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise Broken(f"{what}: {str(found)[:200]} instead of {str(expected)[:200]}")
