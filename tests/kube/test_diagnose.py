"""What no server produces on demand: clocks that differ, authorities that ended, proxies, odd certificates."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import time
from pathlib import Path

import pytest
import urllib3
from urllib3.exceptions import NewConnectionError, ProtocolError, ProxyError, SSLError

from fixtures.kube.pki import Authority
from fixtures.kube.standin import StandIn
from reconciler.kube import evidence
from reconciler.kube.access import Access
from reconciler.kube.candidates import Candidate, Origin
from reconciler.kube.certificate import Certificate, from_der, from_pem, signed_by
from reconciler.kube.codes import Trouble
from reconciler.kube.diagnose import failure
from reconciler.kube.evidence import Evidence

NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z
DAY = 86400.0
POOL = urllib3.PoolManager()


def access(**more):
    given = {"candidate": Candidate(Origin.URL, None, "https://192.0.2.1:6443"), "url": "https://192.0.2.1:6443"}
    return Access(**{**given, "who": "no credentials", "authority": "/ca.crt", "pool": POOL, **more})


def certificate(**more):
    given = {"subject": "kube-apiserver", "issuer": "kubernetes", "begins": NOW - DAY, "ends": NOW + DAY}
    return Certificate(**{**given, **more})


def unverified(code, message="no"):
    error = ssl.SSLCertVerificationError(1, f"[SSL] certificate verify failed: {message}")
    error.verify_code, error.verify_message = code, message
    return SSLError(error)


def told(error, seen=None, **more):
    refusal = failure(access(**more), error, seen or Evidence(NOW))
    assert refusal.msg.startswith("https://192.0.2.1:6443 with no credentials: ")
    assert refusal.details
    return refusal.code, refusal.msg.partition(": ")[2], refusal.details


# --- time


def test_clocks_that_differ_are_both_told_and_the_cure_is_this_node_s_clock():
    peer = certificate(begins=NOW + 10 * DAY, ends=NOW + 20 * DAY)
    code, what, cure = told(unverified(9), Evidence(NOW, peer, clock=NOW + 11 * DAY))
    assert code == Trouble.API_TLS_TIME
    assert what == (
        "its certificate is not valid before 2027-01-25T08:00:00Z, and this node's clock says 2027-01-15T08:00:00Z, "
        "the server's 2027-01-26T08:00:00Z"
    )
    assert cure == "set this node's clock: see `timedatectl` and chrony"


def test_an_expired_certificate_with_clocks_that_agree_is_to_be_renewed():
    _, what, cure = told(unverified(10), Evidence(NOW, certificate(ends=NOW - DAY), clock=NOW + 2))
    assert what.endswith("expired at 2027-01-14T08:00:00Z, and this node's clock says 2027-01-15T08:00:00Z")
    assert "kubeadm certs renew apiserver" in cure


def test_a_clock_that_runs_ahead_is_not_taken_for_an_expired_certificate():
    _, what, cure = told(unverified(10), Evidence(NOW, certificate(ends=NOW - DAY), clock=NOW - 2 * DAY))
    assert "the server's 2027-01-13T08:00:00Z" in what
    assert cure.startswith("set this node's clock")


def test_an_authority_that_has_ended():
    authority = certificate(subject="kubernetes", ends=NOW - DAY)
    _, what, cure = told(unverified(10), Evidence(NOW, certificate()), authorities=(authority,))
    assert "signed by kubernetes of /ca.crt, valid until 2027-01-14T08:00:00Z, which is not valid now" in what
    assert "renew the cluster's authority" in cure


def test_a_certificate_that_could_not_be_looked_at_again():
    for error, code in ((10, Trouble.API_TLS_TIME), (20, Trouble.API_TLS_AUTHORITY), (62, Trouble.API_TLS_NAME)):
        assert told(unverified(error))[0] == code


# --- names and authorities


def test_wildcards_and_addresses_are_no_server_names():
    peer = certificate(names=("192.0.2.7", "*.example.com", "api.example.com"))
    code, what, cure = told(unverified(64), Evidence(NOW, peer))
    assert code == Trouble.API_TLS_NAME
    assert "is not for 192.0.2.1: it carries 192.0.2.7, *.example.com, api.example.com" in what
    assert "name a kubeconfig with kube.kubeconfig, with `tls-server-name: api.example.com`" in cure
    _, _, cure = told(unverified(64), Evidence(NOW, certificate(names=("192.0.2.7",))))
    assert cure.startswith("use one of its names in kube.url, or renew it with 192.0.2.1")


def test_the_name_that_was_asked_for_is_told():
    assert "is not for other" in told(unverified(62), server_name="other")[1]


def test_an_authority_is_told_apart_by_its_key():
    peer = certificate(issuer_key=b"old")
    same, other = certificate(subject="kubernetes", key=b"new"), certificate(subject="etcd-ca", key=b"old")
    _, what, _ = told(unverified(19), Evidence(NOW, peer), authorities=(same, other))
    assert "signed by another kubernetes than that of /ca.crt (kubernetes, etcd-ca): same name, other key" in what
    _, what, cure = told(unverified(19), Evidence(NOW, peer), authorities=(other,))
    assert what.endswith("signed by kubernetes, and expected was /ca.crt (etcd-ca)")
    assert cure.startswith("name the file of the right authority with kube.caFile")
    _, what, _ = told(unverified(20), Evidence(NOW, peer), authority="the authorities of this system")
    assert what.endswith("expected was the authorities of this system")


def test_other_troubles_of_a_certificate_keep_their_words():
    assert "not accepted: ca cert key too weak" in told(unverified(66, "CA cert key too weak"))[1]


def test_a_client_certificate_that_is_refused_in_the_handshake():
    error = ssl.SSLError(1, "alert")
    error.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    code, what, _ = told(SSLError(error))
    assert (code, what) == (
        Trouble.API_CREDENTIALS,
        "it does not accept the certificate (tlsv13 alert certificate required)",
    )


# --- connections


def test_a_proxy_is_named():
    code, what, cure = told(ProxyError("no", OSError(errno.ECONNREFUSED, "refused")), proxied=True)
    assert (code, what) == (Trouble.API_UNREACHABLE, "the proxy does not connect")
    assert "NO_PROXY" in cure


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ECONNREFUSED, "connection refused"),
        (errno.ENETUNREACH, "no route (network is unreachable)"),
        (errno.EHOSTUNREACH, "no route (no route to host)"),
        (errno.ECONNRESET, "it broke off the connection"),
        (errno.ETIMEDOUT, "no answer within 2 s"),
        (errno.EPERM, "operation not permitted"),
    ],
)
def test_what_the_kernel_says(number, words):
    error = NewConnectionError(None, "failed")
    error.__cause__ = OSError(number, "x")
    assert told(error)[1] == words
    assert told(ProtocolError("aborted", OSError(number, "x")))[1] == words


def test_a_name_that_resolved_a_moment_ago():
    error = NewConnectionError(None, "failed")
    error.__cause__ = socket.gaierror(-3, "Temporary failure in name resolution")
    code, what, _ = told(error)
    assert code == Trouble.API_NAME
    assert what == "the name 192.0.2.1 cannot be resolved: Temporary failure in name resolution"


def test_a_service_address_with_rules_points_at_the_server():
    error = NewConnectionError(None, "failed")
    error.__cause__ = OSError(errno.ECONNREFUSED, "x")
    code, what, cure = told(error, Evidence(NOW, rules=("ipvs",)), service=True)
    assert code == Trouble.API_SERVICE_ADDRESS
    assert "connection refused; kube-proxy has it in ipvs, so its endpoints do not answer" in what
    assert "kube-apiserver" in cure


# --- certificates


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("pki"))


def test_a_certificate_is_read_without_being_believed(authority):
    names = ("kubernetes", "kubernetes.default.svc", "10.96.0.1", "fd00::1")
    pair = authority.issue("server", "kube-apiserver", groups=("some",), names=names, begins=-2, ends=3)
    (read,), (ca,) = from_pem(pair.certificate.read_text()), from_pem(authority.certificate.read_text())
    assert (read.subject, read.issuer, read.names) == ("kube-apiserver", "kubernetes", names)
    assert read.ends - read.begins == 5 * DAY
    assert signed_by(read, ca) is True
    assert signed_by(read, read) is False


def test_authorities_of_one_name_are_told_apart(authority, tmp_path):
    pair = authority.issue("server", "kube-apiserver")
    other = Authority(tmp_path)
    (read,), (ca,) = from_pem(pair.certificate.read_text()), from_pem(other.certificate.read_text())
    assert read.issuer == ca.subject
    assert signed_by(read, ca) is False


def test_all_certificates_of_a_file_are_read_and_rubbish_between_them_is_not(authority):
    text = authority.certificate.read_text()
    broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    assert len(from_pem(f"# one\n{text}{broken}\n{text}")) == 2
    assert from_pem("-----BEGIN CERTIFICATE-----") == ()


def test_a_certificate_that_is_cut_or_changed_is_none_or_another_and_never_a_fault(authority):
    der = ssl.PEM_cert_to_DER_cert(authority.certificate.read_text())
    assert from_der(der) is not None
    for length in range(0, len(der), 7):
        assert from_der(der[:length]) is None
    for place in range(len(der)):
        from_der(der[:place] + bytes([der[place] ^ 0xFF]) + der[place + 1 :])


# --- evidence


def test_a_server_s_certificate_and_clock_are_looked_at(authority, tmp_path):
    pair = authority.issue("server", "kube-apiserver", names=("kubernetes",))
    trust = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trust.load_cert_chain(pair.certificate, pair.key)

    async def run():
        async with StandIn(tls=trust) as server:
            return await asyncio.to_thread(evidence.certificate, "127.0.0.1", server.port, "")

    peer, clock = asyncio.run(run())
    assert peer.names == ("kubernetes",)
    assert clock == pytest.approx(time.time(), abs=5)


def test_looking_at_a_server_that_is_not_there_is_no_fault():
    assert evidence.certificate("127.0.0.1", 1, "") == (None, None)


def test_an_ipvs_table_is_read(tmp_path, monkeypatch):
    table = tmp_path / "ip_vs"
    table.write_text(
        "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n"
        "  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n"
        "TCP  0A600001:01BB rr \n  -> C0A80A01:192B      Masq    1      0          0         \n"
        "TCP  [fd00:0000:0000:0000:0000:0000:0000:0001]:01BB rr \n"
    )
    monkeypatch.setattr(evidence, "_IPVS", table)
    monkeypatch.setattr(evidence, "_nft", lambda *words: None)
    for host in ("10.96.0.1", "fd00::1"):
        assert evidence.service_rules(host, 443)[0] == ("ipvs",)
    assert evidence.service_rules("10.96.0.2", 443)[0] == ()
    assert evidence.service_rules("10.96.0.1", 80)[0] == ()
    monkeypatch.setattr(evidence, "_IPVS", Path("/nowhere"))
    assert evidence.service_rules("10.96.0.1", 443)[0] == ()
