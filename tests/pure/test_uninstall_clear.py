"""What `uninstall --purge` says of a state directory that it cannot remove."""

import errno
from pathlib import Path

from reconciler.operate.uninstall import _clear


def test_names_what_is_not_ours_and_leaves_it(tmp_path):
    (tmp_path / "attachments").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    assert _clear(tmp_path) == f"left {tmp_path}: it holds what is not HeadCNI's: notes.txt"
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]


def test_says_why_where_nothing_is_left_in_it(tmp_path, monkeypatch):
    """A mount point, for instance."""

    def busy(_):
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(Path, "rmdir", busy)
    assert _clear(tmp_path) == f"left {tmp_path}: Device or resource busy"
