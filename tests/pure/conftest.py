"""What several files of this tier need: a configuration file, a lock that says a daemon lives."""

import fcntl
import os

import pytest


@pytest.fixture
def yaml(tmp_path):
    def write(text):
        file = tmp_path / "headcni.yaml"
        file.write_text(text)
        return file

    return write


@pytest.fixture
def lives(node):
    """A daemon holds the lock."""
    fd = os.open(node.root / "daemon.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield
    os.close(fd)
