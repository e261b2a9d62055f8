"""Keys: where they come from, what is refused, and that what a file holds is never told."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble
from reconciler.mesh.secrets import MAX_BYTES, have_key, read_key

NAME = "HEADCNI_AUTH_KEY"
KEY = "hskey-auth-012345abcdef-Zz_9"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "auth-key"


def refused(environ, file) -> Refusal:
    answer = read_key(NAME, file, environ)
    assert isinstance(answer, Refusal), "taken"
    assert answer.code == Trouble.SECRET
    assert answer.details
    return answer


@pytest.mark.parametrize("written", [KEY, f"{KEY}\n", f"{KEY}\r\n", f"  {KEY}\t\n\n"])
def test_blanks_and_newlines_around_a_key_do_not_belong_to_it(written, file):
    file.write_bytes(written.encode())
    assert read_key(NAME, file, {}) == KEY
    assert read_key(NAME, None, {NAME: written}) == KEY


def test_the_variable_wins_and_the_file_is_not_even_looked_at(file):
    assert read_key(NAME, file, {NAME: KEY}) == KEY


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_an_empty_variable_counts_as_not_given(empty, file):
    file.write_text(KEY)
    assert read_key(NAME, file, {NAME: empty}) == KEY
    assert have_key(NAME, file, {NAME: empty})
    assert not have_key(NAME, None, {NAME: empty})
    assert NAME in refused({NAME: empty}, None).details


def test_a_place_is_enough_to_have_one_whatever_it_holds(file):
    assert have_key(NAME, file, {})
    assert have_key(NAME, None, {NAME: "x"})
    assert not have_key(NAME, None, {})
    assert not have_key(NAME, None, {"HEADCNI_API_KEY": KEY})


def test_a_renewed_file_is_read_at_the_next_use(tmp_path):
    """As a mounted Secret is renewed: the link is turned to another directory."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "key").write_text(name)
    (tmp_path / "data").symlink_to("old")
    assert read_key(NAME, tmp_path / "data" / "key", {}) == "old"
    (tmp_path / "next").symlink_to("new")
    os.replace(tmp_path / "next", tmp_path / "data")
    assert read_key(NAME, tmp_path / "data" / "key", {}) == "new"


WRONG = {
    "empty": (b"", "is empty"),
    "blank": (b" \n\n", "is empty"),
    "two keys": (f"{KEY}\n{KEY}\n".encode(), "several lines"),
    "old line ends": (f"{KEY}\r{KEY}".encode(), "several lines"),
    "words": (f"key {KEY}".encode(), "blanks"),
    "control": (f"{KEY}\x1b[31m".encode(), "characters that no key has"),
    "NUL": (f"{KEY}\0".encode(), "characters that no key has"),
    "UTF-16": (KEY.encode("utf-16"), "characters that no key has"),
    "no text": (b"\xff\xfe" + KEY.encode(), "characters that no key has"),
    "long": (KEY.encode() * 200, f"more than {MAX_BYTES} bytes"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_a_key_is_told_by_file_and_never_repeated(kind, file):
    content, what = WRONG[kind]
    file.write_bytes(content)
    told = str(refused({}, file))
    assert str(file) in told
    assert what in told
    assert KEY not in told


@pytest.mark.parametrize("kind", [kind for kind in WRONG if kind not in ("empty", "blank", "no text", "UTF-16", "NUL")])
def test_so_is_a_variable(kind):
    content, what = WRONG[kind]
    told = str(refused({NAME: content.decode()}, None))
    assert NAME in told
    assert what in told
    assert KEY not in told


def test_the_longest_key_is_taken_and_one_more_byte_is_not(file):
    file.write_text("k" * MAX_BYTES)
    assert read_key(NAME, file, {}) == "k" * MAX_BYTES
    file.write_text("k" * MAX_BYTES + "\n")
    refused({}, file)


def test_a_missing_file(file):
    told = refused({}, file)
    assert f"{file} cannot be read: No such file" in told.msg


def test_a_directory_as_a_mounted_secret_is(tmp_path):
    told = refused({}, tmp_path)
    assert f"{tmp_path} is a directory" in told.msg
    assert "name the file" in told.details


def test_a_pipe_does_not_make_it_wait(file):
    os.mkfifo(file)
    assert "not a regular file" in refused({}, file).msg


def test_a_socket(file):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(file))
        assert str(file) in refused({}, file).msg


def test_a_link_in_a_circle(file):
    file.symlink_to(file)
    assert f"{file} cannot be read: Too many levels" in refused({}, file).msg


def test_a_file_that_may_not_be_read(file, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(os, "open", denied)  # root may read everything
    assert f"{file} cannot be read: Permission denied" in refused({}, file).msg


def test_no_descriptor_is_left_open(tmp_path, file):
    file.write_text(KEY)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for each in (file, tmp_path):
        read_key(NAME, each, {})
    assert len(list(Path("/proc/self/fd").iterdir())) == before
