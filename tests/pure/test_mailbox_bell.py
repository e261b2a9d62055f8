"""The bell beside an answer, when the plugin ends in the same instant."""

from __future__ import annotations

import os

from reconciler import mailbox
from reconciler.mailbox import Mailbox
from reconciler.store import Store
from statemachine.intent import Intent, parse_name


def test_a_plugin_that_found_its_answer_and_ended_needs_no_bell(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.prepare()
    name = parse_name("42.7-abc@eth0.DEL.json")
    assert name is not None
    bell = tmp_path / "results" / f"{name.stem}.bell"
    os.mkfifo(bell)
    reader = os.open(bell, os.O_RDONLY | os.O_NONBLOCK)
    opened = os.open

    def open_and_lose_the_reader(path, flags, *more):
        fd = opened(path, flags, *more)
        if str(path) == str(bell):
            os.close(reader)
        return fd

    monkeypatch.setattr(mailbox.os, "open", open_and_lose_the_reader)
    Mailbox(store)._ring(Intent(name))
