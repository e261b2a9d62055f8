"""How the static plugin is made: the same bytes each time, a word about what is missing, nothing that does not work."""

import os
import shutil
import subprocess
import sys

import pytest
from plugin_forms import cannot_run, launcher_tools

from deploy.launcher import build as launcher
from deploy.launcher.build import NOT_INSTALLED, Broken, NotInstalled, build, find, main, make, try_out
from deploy.plugin_file import PLUGIN

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def tools():
    return launcher_tools()


def test_two_builds_in_two_places_give_the_same_bytes(tools, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "elsewhere/deeper").mkdir(parents=True)
    make(tools, tmp_path / "a/headcni")
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("LANG", "C.UTF-8")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    make(tools, tmp_path / "elsewhere/deeper/headcni")
    first = (tmp_path / "a/headcni").read_bytes()
    assert first == (tmp_path / "elsewhere/deeper/headcni").read_bytes()
    assert os.fsencode(tmp_path) not in first
    assert os.listdir(tmp_path / "a") == ["headcni"]


def test_it_is_one_executable_file_that_asks_for_no_loader(tools, tmp_path):
    made = build(tools, PLUGIN.read_bytes(), tmp_path)
    head = made.read_bytes()[: 1 << 12]
    entries = int.from_bytes(head[56:58], sys.byteorder)
    kinds = {int.from_bytes(head[64 + 56 * n : 68 + 56 * n], sys.byteorder) for n in range(entries)}
    assert head[:4] == b"\x7fELF"
    assert not kinds & {2, 3}  # PT_DYNAMIC, PT_INTERP
    assert os.access(made, os.X_OK)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (b"import posix\nposix._exit(3)", "ended a VERSION with 3"),
        (b"import json", "ended a VERSION with 1: Traceback"),
        (b'import posix\nposix.write(1, b\'{"cniVersion": "0.1.0"}\')\nposix._exit(0)', "answers a VERSION"),
    ],
    ids=["fails", "imports from disk", "answers wrongly"],
)
def test_what_does_not_work_never_gets_its_name(tools, tmp_path, monkeypatch, capsys, source, complaint):
    """And the file that was there stays."""
    monkeypatch.setattr(launcher, "PLUGIN", tmp_path / "plugin.py")
    (tmp_path / "plugin.py").write_bytes(source)
    (tmp_path / "headcni").write_bytes(b"the old one")
    assert main([str(tmp_path / "headcni")]) == 1
    assert complaint in capsys.readouterr().err
    assert (tmp_path / "headcni").read_bytes() == b"the old one"
    assert sorted(os.listdir(tmp_path)) == ["headcni", "plugin.py"]


def test_what_cannot_be_executed_is_told(tmp_path):
    (tmp_path / "headcni").write_bytes(b"\x7fELF, but not really")
    (tmp_path / "headcni").chmod(0o755)
    with pytest.raises(Broken, match="does not run"):
        try_out(tmp_path / "headcni")


def test_for_another_processor_it_takes_that_ones_library_and_an_emulator(tools, tmp_path):
    """Played by this one's: `/` is a tree of its packages, and env runs its programs."""
    if not list(launcher.Path("/").glob(f"usr/lib/python{tools.version}/config-*/libpython{tools.version}.a")):
        cannot_run(f"libpython{tools.version}-dev is not installed: apt-get install libpython3-dev")
    arguments = ["--tree", "/", "--compiler", tools.compiler, "--emulator", shutil.which("env")]
    assert main([*arguments, "--python", tools.python, str(tmp_path / "headcni")]) == 0
    done = subprocess.run([tmp_path / "headcni"], env={}, capture_output=True, check=True)
    assert b"CNI plugin headcni " in done.stderr


def test_without_a_compiler_the_command_that_installs_one_is_told(tmp_path, capsys):
    assert main(["--compiler", "no-such-cc", str(tmp_path / "headcni")]) == NOT_INSTALLED
    assert "no-such-cc is missing: apt-get install gcc" in capsys.readouterr().err


def test_a_compiler_without_a_static_libc_is_told(tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho libc.a\n")
    compiler.chmod(0o755)
    with pytest.raises(NotInstalled, match=r"no libc\.a: apt-get install libc6-dev"):
        find(compiler=str(compiler))


def test_without_a_static_libpython_the_package_is_told(tools, tmp_path):
    with pytest.raises(NotInstalled, match=rf"unpack libpython{tools.version}-dev into"):
        find((tools.python,), tools.compiler, tmp_path)


def test_a_python_that_is_none_is_told(tools):
    with pytest.raises(NotInstalled, match="/no/such is no Python"):
        find(("/no/such",), tools.compiler)


def test_a_python_whose_modules_come_from_disk_cannot_be_linked(tools, tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho \'{"version": [3, 12, 0], "builtin": ["posix", "time", "errno"]}\'\n')
    python.chmod(0o755)
    with pytest.raises(NotInstalled, match="fcntl, select not built in"):
        find((str(python),), tools.compiler)
