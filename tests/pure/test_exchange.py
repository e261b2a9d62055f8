"""Replacing a file: atomically, with nothing left over, also where names cannot be exchanged."""

import errno

import pytest

from reconciler import exchange


def put(path, content):
    path.write_text(content)
    return str(path)


@pytest.mark.parametrize("supported", [True, False])
@pytest.mark.parametrize("exists", [True, False])
def test_the_new_content_stands_and_the_draft_is_gone(tmp_path, monkeypatch, supported, exists):
    if not supported:
        monkeypatch.setattr(exchange, "_libc", object())
    if exists:
        put(tmp_path / "target", "old")
    exchange.replace(put(tmp_path / "draft", "new"), str(tmp_path / "target"))
    assert (tmp_path / "target").read_text() == "new"
    assert [each.name for each in tmp_path.iterdir()] == ["target"]


def test_a_missing_directory_is_told_as_rename_tells_it(tmp_path):
    with pytest.raises(FileNotFoundError):
        exchange.replace(put(tmp_path / "draft", "new"), str(tmp_path / "nowhere" / "target"))


def test_any_other_failure_is_raised(tmp_path, monkeypatch):
    class Denied:
        @staticmethod
        def renameat2(*_):
            exchange.ctypes.set_errno(errno.EACCES)
            return -1

    monkeypatch.setattr(exchange, "_libc", Denied())
    with pytest.raises(PermissionError):
        exchange.replace(put(tmp_path / "draft", "new"), str(tmp_path / "target"))
