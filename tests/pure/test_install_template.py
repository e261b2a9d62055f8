"""A template that is handed to the runtime is one that the daemon understands, and whose calls it sees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cni.spec import Refusal
from reconciler.install.codes import Trouble
from reconciler.install.template import check

FILE, STATE = Path("/etc/headcni/template"), Path("/var/lib/headcni")
PLUGIN = {"type": "headcni", "ipam": {"type": "headcni-ipam"}}


def conflist(*plugins, **more):
    body = {"cniVersion": "1.0.0", "name": "net", "plugins": list(plugins or (PLUGIN,)), **more}
    return json.dumps({key: value for key, value in body.items() if value is not None}).encode()


@pytest.mark.parametrize(
    "content",
    [
        conflist(),
        conflist(PLUGIN, {"type": "portmap", "capabilities": {"portMappings": True}}),
        conflist({**PLUGIN, "state_dir": "/var/lib/headcni/"}),
        conflist({**PLUGIN, "ipam": {"type": "host-local", "subnet": "10.0.0.0/24"}}),
        conflist(cniVersion="0.3.1"),
    ],
)
def test_a_good_one_is_taken_as_it_is(content):
    assert check(FILE, content, STATE) == content


def test_another_state_directory_must_be_that_of_the_daemon(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    content = conflist({**PLUGIN, "state_dir": f"{tmp_path}/link/state"})
    assert check(FILE, content, tmp_path / "state") == content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        (Refusal(160, f"{FILE} is a directory", "mount a key"), "is a directory"),
        (b"", "is not JSON"),
        (b'{"plugins": [', "is not JSON"),
        (b"[]", "has no plugin of type headcni"),
        (json.dumps({**PLUGIN, "cniVersion": "1.0.0", "name": "net"}).encode(), "has no plugin of type headcni"),
        (conflist({"type": "flannel"}), "has no plugin of type headcni"),
        (conflist(plugins={"type": "headcni"}), "has no plugin of type headcni"),
        (conflist(cniVersion="2.0.0"), 'cniVersion: "2.0.0" is not supported'),
        (conflist(cniVersion=None), "cniVersion"),
        (conflist(name=None), "name"),
        (conflist(name="../net"), "name"),
        (conflist({"type": "headcni", "ipam": {"type": "headcni-ipam", "subnet": "10.0.0.0/99"}}), "subnet"),
        (conflist({**PLUGIN, "timeout_seconds": 0}), "timeout_seconds"),
        (conflist({**PLUGIN, "state_dir": "/var/lib/other"}), "has state_dir /var/lib/other, but this daemon works in"),
        (conflist(PLUGIN, {**PLUGIN, "state_dir": "/var/lib/other"}), "has state_dir /var/lib/other"),
    ],
)
def test_a_broken_one_is_a_refusal_that_names_it_and_what_is_wrong(content, words):
    refusal = check(FILE, content, STATE)
    assert isinstance(refusal, Refusal)
    assert refusal.code == Trouble.TEMPLATE
    assert refusal.msg.startswith("cni.template")
    assert str(FILE) in refusal.msg
    assert words in str(refusal)
    assert refusal.details
