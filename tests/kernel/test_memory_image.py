"""How the memory image is made: the same bytes each time, nothing that fails its trial. What it does is tested with
the other forms of the plugin."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import plugin_forms
import pytest
from plugin_forms import image_tools, launcher_tools

from deploy.launcher import build as launcher
from deploy.launcher.build import NOT_INSTALLED, Broken, NotInstalled
from deploy.memory_image import build as memory_image
from deploy.memory_image import libpython
from deploy.memory_image.elf import segments, with_memory
from deploy.memory_image.trial import prove
from deploy.plugin_file import PLUGIN

pytestmark = pytest.mark.kernel

SOURCE = PLUGIN.read_bytes()


@pytest.fixture
def tools():
    return image_tools()


def test_two_images_made_in_two_places_are_the_same(tools, tmp_path, monkeypatch):
    if subprocess.run(["setarch", "--addr-no-randomize", "true"], check=False).returncode:
        pytest.skip("addresses cannot be fixed here: personality() is forbidden")
    (tmp_path / "elsewhere/deeper").mkdir(parents=True)
    first = memory_image.build(tools, SOURCE, tmp_path).read_bytes()
    monkeypatch.setenv("SOMETHING", "else")
    assert first == memory_image.build(tools, SOURCE, tmp_path / "elsewhere/deeper").read_bytes()
    assert os.fsencode(tmp_path) not in first
    assert b"SOMETHING" not in first


def test_an_image_passes_its_trial_and_gets_its_name(tools, tmp_path, capsys):
    assert memory_image.main([str(tmp_path / "headcni")]) == 0
    assert "a memory image of" in capsys.readouterr().out
    assert os.listdir(tmp_path) == ["headcni"]


def test_its_segments_lie_in_the_file_as_the_kernel_wants_them(tools, tmp_path):
    program = memory_image.build(tools, SOURCE, tmp_path).read_bytes()
    for each in segments(program):
        assert each.offset % 4096 == each.address % 4096 or each.kind != 1
        assert each.offset + each.size_in_file <= len(program)
    assert len(program) < 6 << 20


@pytest.mark.parametrize(
    ("well", "badly", "trial"),
    [
        (b"_write_all(1, answer)", b"_write_all(1, answer[:1000])", "_answers"),
        (b"MAX_CONFIG_BYTES = 16 << 20", b"MAX_CONFIG_BYTES = 1 << 20", "_big"),
        (b"except UnicodeDecodeError", b"except ZeroDivisionError", "_broken"),
        (b"if left <= 0:", b"if left <= 29_800:", "_answers|_big|_late"),
        (b'SUPPORTED_VERSIONS = ("0.3.1"', b'SUPPORTED_VERSIONS = (1 // 0, "0.3.1"', "does not start|_verbs"),
    ],
)
def test_a_plugin_that_does_something_badly_fails_the_trial(tmp_path, well, badly, trial):
    """Played by the launcher: what the trial finds is not a matter of the form."""
    assert SOURCE.count(well) == 1
    program = launcher.build(launcher_tools(), SOURCE.replace(well, badly), tmp_path)
    with pytest.raises(Broken, match=trial):
        prove(program)


def test_the_trial_may_be_started_in_the_background(tmp_path):
    """Where a shell has SIGINT ignored, and the plugin would live on."""
    program = launcher.build(launcher_tools(), SOURCE, tmp_path)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        prove(program)
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_fails_its_trial_never_gets_its_name(tools, tmp_path, monkeypatch, capsys):
    def fail(image):
        raise Broken("trial of nerves")

    monkeypatch.setattr(memory_image, "prove", fail)
    (tmp_path / "headcni").write_bytes(b"the old one")
    assert memory_image.main([str(tmp_path / "headcni")]) == NOT_INSTALLED
    assert "trial of nerves" in capsys.readouterr().err
    assert (tmp_path / "headcni").read_bytes() == b"the old one"
    assert os.listdir(tmp_path) == ["headcni"]


def test_a_plugin_that_raises_before_it_is_written_is_told(tools, tmp_path):
    with pytest.raises(Broken, match="ZeroDivisionError"):
        memory_image.build(tools, b"1 / 0", tmp_path)


def test_without_its_interpreter_the_command_that_makes_one_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(NotInstalled, match="make build FORM=image"):
        libpython.find()


@pytest.mark.parametrize(("required", "ends"), [(True, pytest.fail.Exception), (False, pytest.skip.Exception)])
def test_where_nothing_may_be_skipped_its_interpreter_must_be_there(tmp_path, monkeypatch, required, ends):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(plugin_forms, "REQUIRED", required)
    with pytest.raises(ends, match="make build FORM=image"):
        image_tools()


@pytest.mark.parametrize(("tool", "package"), libpython.NEEDED.items())
def test_without_a_tool_its_package_is_told(tmp_path, monkeypatch, capsys, tool, package):
    """Before anything is downloaded."""
    for each in libpython.NEEDED.keys() - {tool}:
        (tmp_path / each).symlink_to("/bin/false")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert memory_image.main([str(tmp_path / "headcni")]) == NOT_INSTALLED
    assert f"{tool} is missing: apt-get install {package}" in capsys.readouterr().err


def test_memory_of_another_size_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="are not those of the writable segments"):
        with_memory(Path(shutil.which("true")).read_bytes(), b"too little")
