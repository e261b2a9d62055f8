"""TLS: whom we believe, and what is told of a certificate that we do not believe."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cni.spec import Refusal
from fixtures.headscale import HeadscaleServer
from fixtures.headscale.tls import Authority, authority
from reconciler.mesh.codes import Trouble
from reconciler.mesh.headscale import HeadscaleClient


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("authority"))


def asked(tls, ca_file, url=lambda server: server.url):
    async def run():
        async with HeadscaleServer(tls=tls) as server:
            client = HeadscaleClient(url(server), lambda: server.key, ca_file)
            try:
                return await client.nodes(), server.calls
            finally:
                await client.close()

    return asyncio.run(run())


def told(outcome, *words):
    assert isinstance(outcome, Refusal), outcome
    assert outcome.code == Trouble.HEADSCALE_TLS, outcome
    for word in (*words, "127.0.0.1"):
        assert word in outcome.msg, outcome
    assert outcome.details


def test_a_certificate_of_the_authority_that_is_named(ours):
    outcome, _ = asked(ours.server("IP:127.0.0.1"), ours.file)
    assert outcome == ()


def test_an_unknown_authority(ours):
    outcome, calls = asked(ours.server("IP:127.0.0.1"), None)
    told(outcome, "authorities of this system")
    assert "headscale.caFile" in outcome.details
    assert calls == []


def test_an_authority_that_is_not_in_the_file(ours, tmp_path):
    other = authority(tmp_path)
    outcome, _ = asked(ours.server("IP:127.0.0.1"), other.file)
    told(outcome, f"headscale.caFile {other.file}")


def test_a_wrong_name_and_the_right_ones(ours):
    outcome, calls = asked(ours.server("DNS:headscale.example", "IP:192.0.2.7"), ours.file)
    told(outcome, "headscale.example", "192.0.2.7")
    assert calls == []


def test_an_expired_certificate(ours):
    outcome, _ = asked(ours.server("IP:127.0.0.1", days=-1), ours.file)
    told(outcome, "expired")
    assert "clock" in outcome.details


def test_plain_http_where_tls_is_asked_for():
    outcome, _ = asked(None, None, lambda server: server.url.replace("http:", "https:"))
    told(outcome)
    assert "http://" in outcome.details


def test_tls_where_plain_http_is_asked_for(ours):
    """A stand-in of Go's server would say more; here the connection only ends."""
    outcome, _ = asked(ours.server("IP:127.0.0.1"), None, lambda server: server.url.replace("https:", "http:"))
    assert isinstance(outcome, Refusal)
    assert outcome.code in (Trouble.HEADSCALE_UNREACHABLE, Trouble.HEADSCALE_URL)


@pytest.mark.parametrize(("content", "words"), [(None, "cannot be read"), ("no certificate", "holds no certificate")])
def test_a_file_of_authorities_that_is_none(ours, tmp_path, content, words):
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    outcome, calls = asked(ours.server("IP:127.0.0.1"), file)
    assert isinstance(outcome, Refusal)
    assert outcome.code == Trouble.HEADSCALE_TLS
    assert f"headscale.caFile {file} {words}" in outcome.msg
    assert calls == []


def test_a_file_that_is_corrected_is_read_again(ours, tmp_path):
    file = tmp_path / "ca.pem"
    file.write_bytes(authority(tmp_path / "other").file.read_bytes())

    async def run():
        async with HeadscaleServer(tls=ours.server("IP:127.0.0.1")) as server:
            client = HeadscaleClient(server.url, lambda: server.key, file)
            try:
                before = await client.nodes()
                Path(file).write_bytes(ours.file.read_bytes())
                return before, await client.nodes()
            finally:
                await client.close()

    before, after = asyncio.run(run())
    told(before, "authority")
    assert after == ()
