"""The plugin as one file: executable as it is, and still a CNI plugin when the Python under it changes."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import plugin_file
from deploy.plugin_file import Interpreter, Unsuitable, build, choose, compose, examine, install, main

WRONG_MAGIC = b"\x00\x00\r\n"


@pytest.fixture(scope="module")
def interpreter():
    return examine(sys._base_executable)


@pytest.fixture(scope="module")
def whole(interpreter):
    return build(interpreter, plugin_file.PLUGIN.read_bytes())


def _call(path, verb="VERSION", **more):
    env = {"PATH": "/nowhere", **({"CNI_COMMAND": verb} if verb else {}), **more}
    config = b'{"cniVersion": "1.0.0", "name": "n", "type": "headcni"}'
    return subprocess.run([path], env=env, input=config, capture_output=True, timeout=20, check=False)


def test_it_runs_as_it_is_and_speaks_cni(tmp_path, whole):
    install(whole, tmp_path / "headcni")
    answer = _call(tmp_path / "headcni")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["cniVersion"] == "1.0.0"


def test_a_refusal_is_json_on_standard_output(tmp_path, whole):
    install(whole, tmp_path / "headcni")
    answer = _call(tmp_path / "headcni", "ADD")
    assert answer.returncode == 1
    assert json.loads(answer.stdout)["code"] == 4


def test_it_knows_the_name_it_is_called_by(tmp_path, whole):
    install(whole, tmp_path / "headcni")
    (tmp_path / "headcni-ipam").symlink_to("headcni")
    assert b"headcni-ipam" in _call(tmp_path / "headcni-ipam", verb="").stderr
    assert b"headcni-ipam" not in _call(tmp_path / "headcni", verb="").stderr


def test_another_pythons_code_is_not_used_the_source_is(tmp_path, interpreter):
    source = b"import posix\nposix.write(1, b'from source')\n"
    install(compose(interpreter.path, WRONG_MAGIC, b"garbage", source), tmp_path / "headcni")
    answer = _call(tmp_path / "headcni")
    assert answer.stdout == b"from source", answer.stderr


def test_a_python_that_became_too_old_is_a_cni_error(tmp_path, interpreter, monkeypatch):
    monkeypatch.setattr(plugin_file, "OLDEST", (99, 0))
    install(compose(interpreter.path, WRONG_MAGIC, b"", b""), tmp_path / "headcni")
    answer = _call(tmp_path / "headcni")
    error = json.loads(answer.stdout)
    assert answer.returncode == 1
    assert "older than Python 99.0" in error["msg"]
    assert error["code"] == 107


def test_it_is_replaced_in_one_step_while_it_runs(tmp_path, whole):
    out = tmp_path / "headcni"
    out.write_text("old")
    before = out.stat().st_ino
    install(whole, out)
    assert out.stat().st_ino != before
    assert stat.S_IMODE(out.stat().st_mode) == 0o755
    assert os.listdir(tmp_path) == ["headcni"]


def test_the_distributions_first_line_fits_the_oldest_kernel_we_support():
    assert compose("/usr/bin/python3", b"m", b"c", b"s").index(b"\n") < plugin_file.OLD_FIRST_LINE_LIMIT


def test_a_long_path_is_a_warning_a_longer_one_is_refused(capsys):
    compose("/" + "a" * 60, b"m", b"c", b"s")
    assert "Linux 5.1" in capsys.readouterr().err
    with pytest.raises(Unsuitable, match="symbolic link"):
        compose("/" + "a" * 200, b"m", b"c", b"s")


def _fake_python(tmp_path, version):
    path = tmp_path / f"python{version[1]}"
    path.write_text(f"#!/bin/sh\necho '{json.dumps({'version': version, 'builtin': ['posix', 'time', 'errno']})}'\n")
    path.chmod(0o755)
    return str(path)


def test_an_old_python_is_refused_with_both_versions(tmp_path):
    with pytest.raises(Unsuitable, match=r"3\.9\.2.*3\.11 or newer"):
        examine(_fake_python(tmp_path, [3, 9, 2]))


def test_modules_that_come_from_disk_are_told(tmp_path):
    assert "loads fcntl, select from disk" in str(examine(_fake_python(tmp_path, [3, 12, 0])))


@pytest.mark.parametrize("path", ["python3", "/no/such/python", "/with a blank", "/bin/false"])
def test_what_is_no_python_is_refused(path):
    with pytest.raises(Unsuitable, match=path):
        examine(path)


def test_the_one_with_everything_built_in_is_preferred(monkeypatch):
    known = {
        "/usr/bin/python3": Interpreter("/usr/bin/python3", (3, 11, 2), ()),
        sys._base_executable: Interpreter(sys._base_executable, (3, 13, 0), ("select",)),
    }
    monkeypatch.setattr(plugin_file, "examine", known.__getitem__)
    assert choose().path == min(known, key=lambda path: len(known[path].from_disk))


def test_without_any_python_each_is_told(monkeypatch):
    def refuse(path):
        raise Unsuitable(f"{path} is bad")

    monkeypatch.setattr(plugin_file, "examine", refuse)
    with pytest.raises(Unsuitable, match="/usr/bin/python3 is bad"):
        choose()


def test_the_command_writes_the_file_and_says_for_which_python(tmp_path, capsys):
    assert main(["--python", sys._base_executable, str(tmp_path / "headcni")]) == 0
    assert sys._base_executable in capsys.readouterr().out
    assert _call(tmp_path / "headcni").returncode == 0


def test_the_command_fails_with_the_reason(capsys):
    assert main(["--python", "/no/such", str(Path("/dev/null"))]) == 1
    assert "/no/such is no Python" in capsys.readouterr().err
