"""`headcni approver` as a person or a service manager runs it, against the stand-in as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
KEY = "hskey-api-abcdefghijkl-0123456789"
NODES = """
nodes:
- {name: worker-1, podCIDRs: [10.244.1.0/24], tailnet: {address: 100.64.0.1}}
- {name: worker-2, podCIDRs: [10.244.2.0/24], tailnet: {id: 2}}
"""


def environment(**more):
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), **more}


@pytest.fixture
def headscale():
    command = (sys.executable, "-m", "fixtures.headscale", "0.26", "--node", "worker-1=10.244.1.0/24,0.0.0.0/0")
    with subprocess.Popen(
        (*command, "--node", "worker-2=10.244.2.0/24"), stdout=subprocess.PIPE, env=environment(HEADCNI_API_KEY=KEY)
    ) as process:
        yield process.stdout.readline().decode().strip()
        process.terminate()


@pytest.fixture
def command(tmp_path, headscale):
    (tmp_path / "nodes.yaml").write_text(NODES)
    given = ("approver", "--nodes", str(tmp_path / "nodes.yaml"), "--cluster-cidr", "10.244.0.0/16")
    return (sys.executable, "-m", "reconciler.operate.cli", *given, "--headscale-url", headscale)


def run(*command, **more):
    done = subprocess.run(command, capture_output=True, text=True, env=environment(**more), timeout=30, check=False)
    assert KEY not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_once_says_what_it_did_and_then_that_nothing_is_to_do(command):
    first = run(*command, "--once", HEADCNI_API_KEY=KEY)
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.splitlines() == [
        "approved 10.244.1.0/24 for worker-1 (node 1)",
        "approved 10.244.2.0/24 for worker-2 (node 2)",
    ]
    second = run(*command, "--once", HEADCNI_API_KEY=KEY)
    assert (second.returncode, second.stdout, second.stderr) == (0, "nothing was to be approved\n", "")


def test_once_fails_where_something_is_missing_and_does_the_rest(command, tmp_path):
    (tmp_path / "nodes.yaml").write_text(NODES.replace("id: 2", "id: 77"))
    (tmp_path / "key").write_text(KEY + "\n")
    done = run(*command, "--once", "--api-key-file", str(tmp_path / "key"))
    assert done.returncode == 1
    assert done.stdout == "approved 10.244.1.0/24 for worker-1 (node 1)\n"
    assert "headcni: 2 problems" in done.stderr
    assert "worker-2: no node of the tailnet has id 77" in done.stderr
    assert "10.244.2.0/24" in done.stderr  # that node 2 announces, which the list does not know


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--headscale-url", "http://h/api/v1"), "write http://h"),
        (("--headscale-url", "http://127.0.0.1:1"), "Connection refused"),
        (("--cluster-cidr", "10.244.0.0/24,10.245.0.0/16"), "one address family twice"),
        (("--nodes", "/nonexistent"), "/nonexistent cannot be read"),
        (("--api-key-file", "/nonexistent"), "/nonexistent"),
        (("--ca-file", "/nonexistent", "--headscale-url", "https://127.0.0.1:1"), "headscale.caFile /nonexistent"),
    ],
)
def test_what_is_wrong_is_told_with_its_cure(command, change, words):
    key = {} if "--api-key-file" in change else {"HEADCNI_API_KEY": KEY}
    done = run(*command, *change, "--once", **key)
    assert done.returncode == 1
    assert words in done.stderr


def test_a_wrong_command_line():
    assert run(sys.executable, "-m", "reconciler.operate.cli", "approver", "--once").returncode == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_runs_until_it_is_stopped(command, number):
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment(HEADCNI_API_KEY=KEY)) as process:
        lines = [process.stderr.readline().decode() for _ in range(2)]
        process.send_signal(number)
        rest = process.stderr.read().decode()
        assert process.wait(10) == 0
    assert "approved prefix=10.244.1.0/24 member=worker-1 node=1" in lines[0]
    assert rest == ""
