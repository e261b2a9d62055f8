"""`headcni install`: what is decided of each file, what is refused before anything is touched, and what comes back."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from itertools import count
from pathlib import Path

import pytest
from killed import killed_at

from cni.spec import Code, Refusal
from reconciler.install import binaries, place, record, trial
from reconciler.install.binaries import Binary, Deed, install, judge
from reconciler.install.codes import Trouble
from reconciler.install.record import FILE, InstallRecord
from reconciler.install.removal import remove_binaries
from reconciler.operate.cli import main
from reconciler.store import Store

PATH = "/opt/cni/bin/headcni"
ANSWER = '{"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]}'


def plugin(number, answer=ANSWER):
    return f"#!/bin/sh\n# {number}\ncat >/dev/null\n[ $CNI_COMMAND = VERSION ] && echo '{answer}'\n".encode()


class Host:
    def __init__(self, tmp_path):
        self.bin, self.sources, self.store = tmp_path / "bin", tmp_path / "sources", Store(tmp_path / "state")
        self.bin.mkdir()
        self.sources.mkdir()

    def install(self, content=None, loopback=None):
        source = self.source("plugin", plugin(1) if content is None else content)
        return install(self.store, self.bin, source, loopback and self.source("loopback", loopback))

    def source(self, name, content):
        (self.sources / name).write_bytes(content)
        return self.sources / name

    def files(self):
        return {each.name: each.read_bytes() for each in self.bin.iterdir()}

    @property
    def recorded(self):
        return record.load(self.store).record


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


# --- decisions


@pytest.mark.parametrize(
    ("now", "known", "aside", "deed"),
    [
        ("", (), False, Deed.WRITE),
        ("new", ("new",), False, Deed.NOTHING),
        ("new", (), False, Deed.LEAVE),
        ("old", ("older", "old"), False, Deed.REPLACE),
        ("old", ("old",), True, Deed.REPLACE),
        ("theirs", (), False, Deed.SET_ASIDE),
        ("theirs", ("old",), False, Deed.SET_ASIDE),
    ],
)
def test_ours_is_told_by_its_digest(now, known, aside, deed):
    binary = Binary(Path(PATH), Path("/plugin"), b"", "new")
    assert judge(binary, now, InstallRecord(binaries={PATH: known}), aside) is deed


def test_another_one_is_set_aside_in_place_of_the_one_that_we_set_aside_before():
    binary = Binary(Path(PATH), Path("/plugin"), b"", "new")
    assert judge(binary, "theirs", InstallRecord(set_aside=frozenset({PATH})), aside=True) is Deed.SET_ASIDE


def test_a_name_that_somebody_else_gave_to_another_file_is_not_overwritten():
    binary = Binary(Path(PATH), Path("/plugin"), b"", "new")
    refusal = judge(binary, "theirs", InstallRecord(), aside=True)
    assert isinstance(refusal, Refusal)
    assert refusal.code == Trouble.SET_ASIDE
    assert f"{PATH}.before-headcni" in refusal.msg


@pytest.mark.parametrize(("now", "deed"), [("", Deed.WRITE), ("theirs", Deed.LEAVE), ("old", Deed.REPLACE)])
def test_a_loopback_of_somebody_else_is_as_good(now, deed):
    path = "/opt/cni/bin/loopback"
    binary = Binary(Path(path), Path("/loopback"), b"", "new")
    assert judge(binary, now, InstallRecord(binaries={path: ("old",)}), aside=False) is deed


# --- what it does


def test_both_names_get_the_file_and_the_record_names_them(host):
    assert host.install(loopback=plugin("lo")) == [
        f"{host.bin}/{name}: installed" for name in ("headcni", "headcni-ipam", "loopback")
    ]
    assert host.files() == {"headcni": plugin(1), "headcni-ipam": plugin(1), "loopback": plugin("lo")}
    assert {stat.S_IMODE(each.stat().st_mode) for each in host.bin.iterdir()} == {0o755}
    assert set(host.recorded.binaries) == {f"{host.bin}/{name}" for name in host.files()}


def test_again_it_changes_nothing(host):
    host.install()
    before = [(each.name, each.stat().st_ino) for each in host.bin.iterdir()]
    assert {line.rpartition(": ")[2] for line in host.install()} == {"is up to date"}
    assert [(each.name, each.stat().st_ino) for each in host.bin.iterdir()] == before


def test_another_version_replaces_and_remembers_both(host):
    host.install()
    assert host.install(plugin(2)) == [f"{host.bin}/headcni: replaced", f"{host.bin}/headcni-ipam: replaced"]
    digests = tuple(place.digest(plugin(number)) for number in (2, 1))
    assert host.recorded.binaries[f"{host.bin}/headcni"] == digests


def test_a_runtime_that_executes_the_old_one_hinders_nobody(host):
    host.install()
    with open(host.bin / "headcni", "rb") as running:
        host.install(plugin(2))
        assert running.read() == plugin(1)


def test_while_a_foreign_one_is_set_aside_there_is_always_one_under_the_name(host, monkeypatch):
    (host.bin / "headcni").write_bytes(b"of another HeadCNI")
    seen = []

    def commit(target, real=place.commit):
        if target.parent == host.bin:
            seen.append(target.exists() and target.read_bytes())
        real(target)

    monkeypatch.setattr(place, "commit", commit)
    host.install()
    assert seen == [b"of another HeadCNI", False]


def test_what_was_foreign_comes_back_as_it_was(host):
    (host.bin / "headcni").write_bytes(b"of another HeadCNI")
    (host.bin / "headcni").chmod(0o711)
    os.utime(host.bin / "headcni", (1, 1))
    done = host.install()
    aside = f"{host.bin}/headcni.before-headcni"
    assert done[0] == f"{host.bin}/headcni: installed, and the one that was there kept as {aside}"
    host.install(plugin(2))
    assert remove_binaries(host.store)[:2] == [
        f"deleted {host.bin}/headcni",
        f"put {host.bin}/headcni back, as it was before",
    ]
    assert host.files() == {"headcni": b"of another HeadCNI"}
    back = (host.bin / "headcni").stat()
    assert (stat.S_IMODE(back.st_mode), back.st_mtime) == (0o711, 1)
    assert not (host.store.root / FILE).exists()


def test_what_somebody_put_in_place_of_ours_stays_after_uninstalling(host):
    host.install()
    (host.bin / "headcni").write_bytes(b"theirs")
    assert f"left {host.bin}/headcni: it is not as HeadCNI wrote it" in remove_binaries(host.store)
    assert host.files() == {"headcni": b"theirs"}


def test_what_somebody_put_in_place_of_ours_is_set_aside_by_the_next_installation(host):
    host.install()
    (host.bin / "headcni").write_bytes(b"theirs")
    host.install(plugin(2))
    assert host.files()["headcni.before-headcni"] == b"theirs"
    remove_binaries(host.store)
    assert host.files() == {"headcni": b"theirs"}


def test_one_that_was_set_aside_stays_beside_what_its_owner_wrote_since(host):
    (host.bin / "headcni").write_bytes(b"theirs 1")
    host.install()
    (host.bin / "headcni").write_bytes(b"theirs 2")
    assert any("it is not HeadCNI's; the one before it is" in line for line in remove_binaries(host.store))
    assert host.files() == {"headcni": b"theirs 2", "headcni.before-headcni": b"theirs 1"}


def test_the_same_file_of_another_headcni_stays_when_this_one_leaves(host):
    """Two releases of one version on one node, each with a state directory of its own."""
    other = Store(host.store.root.with_name("other"))
    host.install()
    (line, _) = binaries.install(other, host.bin, host.source("plugin", plugin(1)), None)
    assert line == f"{host.bin}/headcni: is there already, and stays"
    assert remove_binaries(other) == []
    assert set(host.files()) == {"headcni", "headcni-ipam"}
    remove_binaries(host.store)
    assert host.files() == {}


@pytest.mark.parametrize("before", [{}, {"headcni": b"theirs"}], ids=["empty", "foreign"])
def test_an_installation_killed_anywhere_leaves_nothing_after_uninstalling(host, before, monkeypatch):
    """Also where no other installation came between."""
    for name, content in before.items():
        (host.bin / name).write_bytes(content)
    for operation in count():
        with killed_at(operation, monkeypatch) as killed:
            host.install()
        remove_binaries(host.store)
        assert host.files() == before, operation
        if not killed:
            break
    assert operation > 10


def test_a_link_is_set_aside_as_a_link(host):
    (host.bin / "headcni").symlink_to("/bin/sh")
    host.install()
    remove_binaries(host.store)
    assert os.readlink(host.bin / "headcni") == "/bin/sh"


def test_drafts_that_a_kill_left_go(host):
    place.draft_of(host.bin / "headcni").write_bytes(b"half")
    place.draft_of(host.bin / "loopback").write_bytes(b"half")
    assert [line.rpartition(": ")[2] for line in host.install()[:2]] == [
        "removed, an installation that was killed left it"
    ] * 2
    assert set(host.files()) == {"headcni", "headcni-ipam"}


# --- what it refuses, with nothing touched


def refused(host, *words, code=Trouble.PLUGIN_FILE, content=None, **more):
    before = host.files()
    refusal = host.install(content, **more)
    assert isinstance(refusal, Refusal), refusal
    assert refusal.code == code
    assert [word for word in words if word not in str(refusal)] == []
    assert host.files() == before
    return refusal


@pytest.fixture
def installed(host):
    host.install()
    return host


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x7fELF of another machine", "is not a program for this machine"),
        (b"#!/nonexistent/python3\n", "needs an interpreter or loader"),
        (plugin(2, '{"supportedVersions": ["9.9.9"]}'), "does not answer as a CNI plugin"),
        (plugin(2, "hello"), "hello"),
        (b"#!/bin/sh\necho broken >&2\nexit 3\n", "exit code 3, broken"),
        (b"", "not a program"),
    ],
)
def test_what_does_not_run_here(installed, content, words):
    refused(installed, "plugin", words, content=content)


def test_one_that_gives_no_answer(installed, monkeypatch):
    monkeypatch.setattr(trial, "SECONDS", 0.2)
    refused(installed, "no answer within 0.2 s", content=b"#!/bin/sh\nexec sleep 60\n")


def test_a_loopback_that_does_not_run_keeps_the_plugin_from_being_replaced(installed):
    refused(installed, "loopback", content=plugin(2), loopback=b"#!/nonexistent\n")


def test_a_file_that_is_not_there(host):
    refusal = install(host.store, host.bin, host.sources / "missing", None)
    assert (refusal.code, "missing cannot be read" in refusal.msg) == (Trouble.PLUGIN_FILE, True)


def test_a_directory_that_is_not_there(host):
    host.bin.rmdir()
    refusal = host.install()
    assert refusal.msg == f"cni.binDir = {host.bin}: No such file or directory"
    assert "create the directory" in refusal.details
    assert not host.bin.exists()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
@pytest.mark.parametrize("when", [1, 2])
def test_a_directory_that_cannot_be_written(installed, monkeypatch, number, when):
    real, calls = os.open, []

    def failing(path, flags, *more, **kinds):
        if str(path).endswith(place.DRAFT) and str(installed.bin) in str(path):
            calls.append(path)
            if len(calls) == when:
                raise OSError(number, os.strerror(number), str(path))
        return real(path, flags, *more, **kinds)

    monkeypatch.setattr(os, "open", failing)
    refusal = refused(
        installed, f"cni.binDir = {installed.bin}", os.strerror(number), code=Trouble.BIN_DIR, content=plugin(2)
    )
    assert ("free space" in refusal.details) is (number == errno.ENOSPC)


def test_a_state_directory_that_is_full_refuses_before_anything_is_replaced(installed, monkeypatch):
    full = Refusal(Trouble.INSTALL_RECORD, "No space left on device")
    monkeypatch.setattr(binaries.record, "update", lambda store, change: full)
    refused(installed, "No space", code=Trouble.INSTALL_RECORD, content=plugin(2))


def test_another_installation_that_works_there(installed):
    fd = os.open(installed.bin, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    refused(installed, "another installation", code=Code.TRY_AGAIN_LATER, content=plugin(2))
    os.close(fd)
    assert isinstance(installed.install(plugin(2)), list)


def test_a_directory_under_the_plugins_name(host):
    (host.bin / "headcni").mkdir()
    refusal = host.install()
    assert (refusal.code, "Not a file" in refusal.msg) == (Trouble.BIN_DIR, True)


# --- downgrade


def test_an_older_version_warns_of_what_its_daemon_cannot_read_and_installs(installed):
    record.update(installed.store, lambda now: InstallRecord("9.9.9", {"attachment": 2}, now.binaries))
    warning, *done = installed.install(plugin(0))
    assert isinstance(warning, Refusal)
    assert warning.code == Trouble.DOWNGRADE
    assert "version 9.9.9 wrote files of format headcni/attachment/2" in warning.msg
    assert [line.rpartition(": ")[2] for line in done] == ["replaced"] * 2


def test_with_a_record_of_a_newer_version_it_installs_and_leaves_that_alone(installed):
    newer = (installed.store.root / FILE).read_bytes().replace(b"install/1", b"install/2")
    (installed.store.root / FILE).write_bytes(newer)
    warning, *done = installed.install(plugin(0))
    assert (warning.code, "is newer" in warning.msg) == (Trouble.INSTALL_RECORD, True)
    assert [line.rpartition(": ")[2] for line in done] == ["replaced"] * 2
    assert installed.files() == {"headcni": plugin(0), "headcni-ipam": plugin(0)}
    assert (installed.store.root / FILE).read_bytes() == newer
    assert remove_binaries(installed.store)[0].code == Trouble.INSTALL_RECORD


def test_with_a_record_that_cannot_be_read_it_refuses(installed, monkeypatch):
    (installed.store.root / FILE).unlink()
    (installed.store.root / FILE).mkdir()
    refused(installed, FILE, "cannot be read", code=Trouble.INSTALL_RECORD, content=plugin(2))


# --- the command


def test_the_command_prints_a_line_for_each_thing_done_and_warnings_beside(host, capsys):
    source = str(host.source("plugin", plugin(1)))
    argv = ["--state-dir", str(host.store.root), "install", "--bin-dir", str(host.bin), "--plugin", source]
    assert main(argv) == 0
    assert capsys.readouterr() == (f"{host.bin}/headcni: installed\n{host.bin}/headcni-ipam: installed\n", "")
    record.update(host.store, lambda now: InstallRecord("9.9.9", {"attachment": 2}, now.binaries))
    assert main(argv) == 0
    assert capsys.readouterr().err.startswith("warning: version 9.9.9 wrote files")


def test_the_command_takes_the_directory_from_the_configuration(host, capsys, monkeypatch):
    monkeypatch.setenv("HEADCNI_CNI_BIN_DIR", str(host.bin / "nowhere"))
    source = str(host.source("plugin", plugin(1)))
    assert main(["install", "--state-dir", str(host.store.root), "--plugin", source]) == 1
    assert f"cni.binDir = {host.bin}/nowhere: No such file" in capsys.readouterr().err


def test_the_real_plugin_passes_the_trial(tmp_path):
    from deploy.plugin_file import PLUGIN, build, examine

    real = tmp_path / "headcni"
    real.write_bytes(build(examine(sys.executable), PLUGIN.read_bytes()))
    real.chmod(0o755)
    assert trial.try_out(real, real) is None
