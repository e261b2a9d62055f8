"""One spelling for a control server's URL; whatever else is written there is told with its cure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble
from reconciler.mesh.url import check_url


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("https://headscale.example.com", "https://headscale.example.com"),
        ("  HTTPS://Headscale.Example.com/ \n", "https://headscale.example.com"),
        ("https://h:443", "https://h"),
        ("http://h:80/", "http://h"),
        ("http://h:443", "http://h:443"),
        ("http://192.0.2.1:8080", "http://192.0.2.1:8080"),
        ("http://[FD77::0:a]:8080/", "http://[fd77::a]:8080"),
        ("http://head_scale:8080", "http://head_scale:8080"),
        ("http://h.", "http://h."),
    ],
)
def test_one_spelling(written, normal):
    assert check_url(written) == normal
    assert check_url(normal) == normal


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("", "http://"),
        ("headscale.example.com", "http://"),
        ("headscale:8080", "http://"),
        ("ftp://h", "http://"),
        ("unix:///run/headscale.sock", "http://"),
        ("http://", "no host"),
        ("http://:8080", "no host"),
        ("http://h:0", "no host"),
        ("http://h:99999", "not a URL"),
        ("http://h:port", "not a URL"),
        ("http://[fd77::1", "not a URL"),
        ("http://[fd77::z]", "not a URL"),
        ("http://a b", "no host"),
        ("http://-h", "no host"),
        ("http://h/api/v1", "write http://h"),
        ("https://h:8443/web", "write https://h:8443"),
        ("http://h?x=1", "write http://h"),
        ("http://h#top", "write http://h"),
    ],
)
def test_what_is_none(written, words):
    refused = check_url(written)
    assert isinstance(refused, Refusal), refused
    assert refused.code == Trouble.HEADSCALE_URL
    assert words in str(refused)


@pytest.mark.parametrize(
    "written", ["https://admin:hunter2@h", "admin:hunter2@h", "https://hunter2@h/x", "ftp://a:hunter2@h"]
)
def test_a_password_is_not_repeated(written):
    assert "hunter2" not in str(check_url(written))


@given(st.text() | st.text("htps:/[]@.?#0123456789ab", max_size=30).map("http://".__add__))
def test_whatever_is_written(text):
    checked = check_url(text)
    assert isinstance(checked, Refusal) or check_url(checked) == checked
