"""The plugin as a source file: its rules, and how it finds a key. As a process it is met in tests/kernel."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cni import plugin

SOURCE = Path(plugin.__file__)
BUILT_IN = {"errno", "fcntl", "posix", "select", "sys", "time"}


# --- rules of the source


def test_imports_built_in_modules_only():
    imported = set()
    for node in ast.walk(ast.parse(SOURCE.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert imported <= BUILT_IN


def test_never_uses_what_a_frozen_interpreter_lacks():
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(SOURCE.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"print", "open", "input", "__import__", "exec", "eval"}


def test_opens_no_module_from_disk(tmp_path):
    """A whole ADD: no file of the standard library beyond those that every interpreter start opens."""
    strace = ["strace", "-f", "-e", "trace=openat", "-e", "status=successful"]
    python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    environ = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "box", "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "eth0"}
    config = {"cniVersion": "1.1.0", "name": "n", "state_dir": str(tmp_path), "timeout_seconds": 1}

    def opened(script):
        run = subprocess.run(
            [*strace, python, "-I", "-S", script],
            input=json.dumps(config).encode(),
            env=environ,
            capture_output=True,
        )
        return {line.split('"')[1] for line in run.stderr.decode().splitlines() if ".py" in line or ".so" in line}

    empty = tmp_path / "empty.py"
    empty.write_text("import sys\n")
    extra = {path for path in opened(str(SOURCE)) - opened(str(empty)) if path != str(SOURCE)}
    shared_modules = {path for path in extra if "lib-dynload" in path}  # interpreters that do not build these in
    assert extra <= shared_modules


# --- the scan


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b'{"a":"x"}', {b"a": b'"x"'}),
        (b' {\n "a" :\t"x" , "b": 12 }', {b"a": b'"x"', b"b": b"12"}),
        (b'{"p":{"a":"inner"},"a":"outer"}', {b"a": b'"outer"'}),
        (b'{"a":"outer","p":{"a":"inner"}}', {b"a": b'"outer"'}),
        (b'{"l":[{"a":"inner"}]}', {}),
        (b'{"t":"quote \\" and {","a":"x"}', {b"a": b'"x"'}),
        (b'{"t":"back\\\\","a":"x"}', {b"a": b'"x"'}),
        (b'{"v":"a","b":3}', {b"b": b"3"}),
        (b"not json", {}),
        (b"", {}),
        (b'{"a"', {}),
    ],
)
def test_finds_keys_of_the_first_level_only(text, found):
    assert plugin.top_level(text, (b"a", b"b")) == found
