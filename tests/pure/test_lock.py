"""daemon.lock: one daemon for one directory, also when somebody tampers with the file."""

import os

import pytest

from reconciler.store import LockHeld, Store


@pytest.fixture
def store(tmp_path):
    held = Store(tmp_path)
    assert held.lock() is None
    yield held
    held.unlock()


def test_the_second_is_refused_and_told_who_holds_it(store):
    assert Store(store.root).lock() == LockHeld(f"pid {os.getpid()}")


def test_a_longer_line_of_an_earlier_holder_leaves_no_rest(tmp_path):
    (tmp_path / "daemon.lock").write_text("pid 1234567890\nand more\n")
    store = Store(tmp_path)
    store.lock()
    assert (tmp_path / "daemon.lock").read_text() == f"pid {os.getpid()}\n"
    store.unlock()


def test_it_is_ours_while_the_file_is_the_one_we_hold(store):
    assert store.lock_is_ours()
    store.unlock()
    assert not store.lock_is_ours()


def test_a_removed_lock_is_not_ours(store):
    (store.root / "daemon.lock").unlink()
    assert not store.lock_is_ours()


def test_a_replaced_lock_is_the_others(store):
    (store.root / "daemon.lock").unlink()
    other = Store(store.root)
    assert other.lock() is None
    assert other.lock_is_ours()
    assert not store.lock_is_ours()
    other.unlock()


def test_a_file_removed_before_it_is_locked_locks_nobody_out(tmp_path, monkeypatch):
    """As an uninstall does it: between our opening the file and our locking it, it is unlinked."""
    path, real_open, opened = tmp_path / "daemon.lock", os.open, []

    def open_and_lose(*arguments):
        opened.append(fd := real_open(*arguments))
        if len(opened) == 1:
            path.unlink()
        return fd

    monkeypatch.setattr("reconciler.store.os.open", open_and_lose)
    store = Store(tmp_path)
    assert store.lock() is None
    assert store.lock_is_ours()
    assert len(opened) == 2
    store.unlock()


def test_a_full_disk_keeps_no_daemon_from_starting(tmp_path, monkeypatch):
    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reconciler.store.os.pwrite", no_space)
    store = Store(tmp_path)
    assert store.lock() is None
    store.unlock()
