"""The plugin in each of its forms, as a runtime starts it, and a daemon of one answer to start it against.

What one form does every form must do: a module that asks for `FORMS` runs its tests on all of them. A form that
cannot be built here is skipped by name, or fails where the tier must be whole.
"""

import fcntl
import os
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.launcher import build as launcher
from deploy.memory_image import build as memory_image
from deploy.memory_image import libpython
from deploy.plugin_file import PLUGIN as PLUGIN_SOURCE
from fixtures.processes import PLUGIN

STATIC_FORMS = ("launcher", "image")
FORMS = ("source", *STATIC_FORMS)
ENV = {"CNI_CONTAINERID": "abc123", "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "eth0", "CNI_PATH": "/opt/cni/bin"}
REQUIRED = os.environ.get("CI") == "true" or os.environ.get("HEADCNI_REQUIRE_KERNEL") == "1"


@dataclass(frozen=True)
class Form:
    command: tuple[str, ...]

    @property
    def file(self):
        return Path(self.command[-1])

    def named(self, path):
        """The same under another name."""
        path.symlink_to(self.file)
        return Form((*self.command[:-1], str(path)))

    def behind(self, *words):
        """Started by another program."""
        return Form((*words, *self.command))

    def start(self, verb, env=ENV, **more):
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        environment = {**env, **({"CNI_COMMAND": verb} if verb else {})}
        return subprocess.Popen(self.command, env=environment, **{**pipes, **more})

    def call(self, verb, conf=b"", env=ENV, **more):
        process = self.start(verb, env, **more)
        out, err = process.communicate(conf, timeout=20)
        return process.returncode, out, err


def make(form, room):
    if form == "source":
        return Form(PLUGIN)
    if form == "image":
        make_image(room / "headcni")
    else:
        launcher.make(launcher_tools(), room / "headcni")
    return Form((str(room / "headcni"),))


def launcher_tools():
    try:
        return launcher.find()
    except launcher.NotInstalled as why:
        cannot_run(f"the static plugin is NOT tested here: {why}")


def image_tools():
    """It is off by default, and its interpreter takes minutes to build: no test makes one, `make build` does."""
    try:
        return libpython.find()
    except launcher.NotInstalled as why:
        cannot_run(f"the memory image is NOT tested here: {why}")


def cannot_run(why):
    """For want of something that can be installed or built."""
    (pytest.fail if REQUIRED else pytest.skip)(why)


def make_image(out):
    """Without its own trial, which would hide from the tests what it finds."""
    memory_image.build(image_tools(), PLUGIN_SOURCE.read_bytes(), out.parent).rename(out)


class HeldLock:
    """As long as it is held, a daemon lives."""

    def __init__(self, state):
        self.fd = os.open(state / "daemon.lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(self.fd, fcntl.LOCK_EX)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)


def wait_for_intent(state, count=1):
    deadline = time.monotonic() + 10
    while len(names := os.listdir(state / "intents")) < count:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return sorted(names)


def answer(state, name, suffix, content):
    (state / "tmp" / "answer").write_bytes(content)
    (state / "tmp" / "answer").rename(state / "results" / (name.rsplit(".", 2)[0] + suffix))


def answer_when_asked(state, suffix, content, *, unlink=True):
    """A daemon of one answer: waits for the intent, answers it, unlinks it; returns what the intent held."""
    seen = {}

    def serve():
        (name,) = wait_for_intent(state)
        seen["name"], seen["raw"] = name, (state / "intents" / name).read_bytes()
        answer(state, name, suffix, content)
        if unlink:
            (state / "intents" / name).unlink()

    thread = threading.Thread(target=serve)
    thread.start()
    return thread, seen
