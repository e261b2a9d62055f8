"""Why no answer came, in words that a person can use. Pure: what had to be looked at is in `Evidence`.

Each refusal names the code, what was dialled and with whose credentials, the cause, and the cure with its file and key.
What an answer says that did come is in `answers.py`.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterator
from ipaddress import ip_address

from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ProxyError, ReadTimeoutError

from cni.spec import Refusal
from reconciler.kube.access import Access
from reconciler.kube.certificate import Certificate, signed_by, when
from reconciler.kube.codes import Trouble
from reconciler.kube.evidence import Evidence
from reconciler.kube.transport import CONNECT, TooLarge

_UNKNOWN_AUTHORITY = (2, 18, 19, 20, 21)  # X509_V_ERR_… of OpenSSL
_WRONG_TIME = (9, 10)
_WRONG_NAME = (62, 64)
_SKEW = 300.0  # seconds; what is less makes no certificate invalid
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")


def failure(access: Access, error: Exception, seen: Evidence) -> Refusal:
    tls = next((each for each in _causes(error) if isinstance(each, ssl.SSLError)), None)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return _certificate(access, tls, seen)
    if tls is not None and not isinstance(tls, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return _no_tls(access, tls)
    if isinstance(error, TooLarge):
        what = f"{access}: the answer is larger than any that is wanted"
        return Refusal(Trouble.API_ANSWER, what, f"see that {server_place(access)} is an API server's")
    unknown = next((each for each in _causes(error) if isinstance(each, socket.gaierror)), None)
    if unknown is not None:
        return unresolved(access, unknown.strerror or "no reason given")
    cause, cure = _connection(access, error)
    if access.service:
        return _service(access, cause, seen)
    return Refusal(Trouble.API_UNREACHABLE, f"{access}: {cause}", cure)


def unresolved(access: Access, why: str) -> Refusal:
    what = f"{access}: the name {access.host} cannot be resolved: {why}"
    return Refusal(Trouble.API_NAME, what, f"see /etc/resolv.conf, or write an address into {server_place(access)}")


def server_place(access: Access) -> str:
    """Where a person finds the URL that was dialled."""
    if access.candidate.url or access.kubeconfig is None:
        return str(access.candidate.origin)
    return f"`server` of {access.kubeconfig.cluster_place}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """urllib3 wraps by `raise … from`, by context, and by passing the first as an argument of the next."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        inner = next((each for each in error.args if isinstance(each, BaseException)), None)
        error = error.__cause__ or inner or error.__context__


# --- connections


def _connection(access: Access, error: Exception) -> tuple[str, str]:
    place = server_place(access)
    if any(isinstance(each, ProxyError) for each in _causes(error)):
        return "the proxy does not connect", "name the API server in NO_PROXY, or see HTTPS_PROXY and proxy-url"
    number = _errno(error)
    if number == errno.ECONNREFUSED:
        return "connection refused", f"see that kube-apiserver runs there, and that {place} is right"
    if number in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        words = os.strerror(number).lower()
        return f"no route ({words})", f"see `ip route get {access.host}`, and {place}"
    if number == errno.ETIMEDOUT or (
        isinstance(error, ConnectTimeoutError) and not isinstance(error, NewConnectionError)
    ):
        return f"no answer within {CONNECT:g} s", f"see firewalls and routes to {access.host}, and {place}"
    if isinstance(error, ReadTimeoutError | TimeoutError):
        return "it takes connections, but does not answer in time", "see kube-apiserver's log, and the load of its node"
    if number in (errno.ECONNRESET, errno.EPIPE, 0):
        return "it broke off the connection", f"it may be starting or ending: see kube-apiserver's log, and {place}"
    return os.strerror(number).lower(), f"see {place}"


def _errno(error: Exception) -> int:
    """Those of TLS errors count otherwise."""
    plain = [each for each in _causes(error) if isinstance(each, OSError) and not isinstance(each, ssl.SSLError)]
    return next((each.errno for each in plain if each.errno), 0)


def _service(access: Access, cause: str, seen: Evidence) -> Refusal:
    what = f"{access}: this is a Service's address, and it does not work: {cause}"
    if seen.rules:
        what += f"; kube-proxy has it in {' and '.join(seen.rules)}, so its endpoints do not answer"
        return Refusal(Trouble.API_SERVICE_ADDRESS, what, "see that kube-apiserver runs; HeadCNI can do without it")
    what += f"; kube-proxy is not up, or another does its work: no rule for it in {', '.join(seen.looked)}"
    cure = "start kube-proxy; or name the API server itself with kube.url or kube.kubeconfig, which works without"
    return Refusal(Trouble.API_SERVICE_ADDRESS, what, cure)


# --- TLS


def _no_tls(access: Access, error: ssl.SSLError) -> Refusal:
    reason = str(error.reason or "")
    if reason in _NO_TLS:
        what, cure = "it does not speak TLS", f"see the port in {server_place(access)}"
        return Refusal(Trouble.API_ANSWER, f"{access}: {what}", cure)
    words = reason.replace("_", " ").lower() or "no reason given"
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        cure = "give it a certificate that its --client-ca-file has signed"
        return Refusal(Trouble.API_CREDENTIALS, f"{access}: it does not accept the certificate ({words})", cure)
    return Refusal(Trouble.API_ANSWER, f"{access}: no TLS connection: {words}", "see kube-apiserver's log")


def _certificate(access: Access, error: ssl.SSLCertVerificationError, seen: Evidence) -> Refusal:
    if error.verify_code in _UNKNOWN_AUTHORITY:
        return _authority(access, seen.peer)
    if error.verify_code in _WRONG_NAME:
        return _name(access, seen.peer)
    if error.verify_code in _WRONG_TIME:
        return _time(access, seen)
    words = str(error.verify_message).lower()
    what = f"{access}: its certificate is not accepted: {words}"
    return Refusal(Trouble.API_TLS_AUTHORITY, what, "renew it on the control plane (kubeadm certs renew apiserver)")


def _authority(access: Access, peer: Certificate | None) -> Refusal:
    expected = ", ".join(dict.fromkeys(each.subject for each in access.authorities))
    whom = f"{access.authority} ({expected})" if expected else access.authority
    namesakes = [each for each in access.authorities if peer is not None and each.subject == peer.issuer]
    if peer is None:
        what = f"its certificate is not signed by {whom}"
    elif namesakes and not any(signed_by(peer, each) for each in namesakes):
        what = (
            f"its certificate is signed by another {peer.issuer} than that of {whom}: same name, other key, "
            "so it is of another cluster, or this one was made anew"
        )
    else:
        what = f"its certificate is signed by {peer.issuer}, and expected was {whom}"
    return Refusal(Trouble.API_TLS_AUTHORITY, f"{access}: {what}", _authority_cure(access))


def _authority_cure(access: Access) -> str:
    is_right = "on the control plane it is /etc/kubernetes/pki/ca.crt (k3s: server/tls/server-ca.crt)"
    if access.candidate.ca_file or access.kubeconfig is None:
        return f"name the file of the right authority with kube.caFile; {is_right}"
    key = "certificate-authority-data or certificate-authority"
    return f"put the right authority into {key} of {access.kubeconfig.cluster_place}; {is_right}"


def _name(access: Access, peer: Certificate | None) -> Refusal:
    dialled = access.server_name or access.host
    names = peer.names if peer else ()
    carries = f": it carries {', '.join(names)}" if names else ""
    what = f"{access}: its certificate is not for {dialled}{carries}"
    usable = next((name for name in names if not _is_address(name) and "*" not in name), None)
    others = f"use one of its names in {server_place(access)}, or renew it with {dialled} (kubeadm: apiServer.certSANs)"
    if usable is None:
        return Refusal(Trouble.API_TLS_NAME, what, others)
    line = f"`tls-server-name: {usable}`"
    if access.kubeconfig is not None:
        return Refusal(Trouble.API_TLS_NAME, what, f"write {line} into {access.kubeconfig.cluster_place}; or {others}")
    cure = f"name a kubeconfig with kube.kubeconfig, with {line} beside its `server`; or {others}"
    return Refusal(Trouble.API_TLS_NAME, what, cure)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _time(access: Access, seen: Evidence) -> Refusal:
    peer, now = seen.peer, f"this node's clock says {when(seen.now)}"
    skewed = seen.clock is not None and abs(seen.clock - seen.now) > _SKEW
    if seen.clock is not None and skewed:
        now += f", the server's {when(seen.clock)}"
    if peer is not None and seen.now < peer.begins:
        what = f"its certificate is not valid before {when(peer.begins)}"
        cure = "set this node's clock, or wait: the certificate was made for later"
    elif peer is not None and seen.now > peer.ends:
        what = f"its certificate expired at {when(peer.ends)}"
        cure = "renew it on the control plane (kubeadm certs renew apiserver; k3s: restart it), then check the clocks"
    else:
        ended = next((each for each in access.authorities if not each.begins <= seen.now <= each.ends), None)
        whose = f"{ended.subject} of {access.authority}, valid until {when(ended.ends)}" if ended else "an authority"
        what = f"its certificate is signed by {whose}, which is not valid now"
        cure = "renew the cluster's authority, or set this node's clock"
    cure = "set this node's clock: see `timedatectl` and chrony" if skewed else cure
    return Refusal(Trouble.API_TLS_TIME, f"{access}: {what}, and {now}", cure)
