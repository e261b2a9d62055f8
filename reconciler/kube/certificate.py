"""What a certificate says of itself: whose it is, who signed it, when it counts, for which names, with which key.

Python's `ssl` decodes a certificate only once it is trusted, and the ones that a diagnosis must name are those that are
not. So the few fields are read here, from DER, and nothing is verified. What is no certificate is `None`.

Names alone do not tell authorities apart: every kubeadm cluster calls its own "kubernetes". Their key identifiers do.

Rejected: the package `cryptography` (a large one, for five fields), and `ssl._ssl._test_decode_cert` (private).
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _OCTETS, _BOOLEAN, _SHORT_TIME = 0x30, 0x04, 0x01, 0x17
_VERSION, _EXTENSIONS = 0xA0, 0xA3
_DNS_NAME, _IP_ADDRESS = 0x82, 0x87
_COMMON_NAME, _ORGANISATION = b"\x55\x04\x03", b"\x55\x04\x0a"
_SUBJECT_KEY, _NAMES, _AUTHORITY_KEY = b"\x55\x1d\x0e", b"\x55\x1d\x11", b"\x55\x1d\x23"


@dataclass(frozen=True, slots=True)
class Certificate:
    subject: str  # its common name, or organisation
    issuer: str
    begins: float  # seconds since the epoch
    ends: float
    names: tuple[str, ...] = ()
    key: bytes = b""  # identifiers, where it tells them
    issuer_key: bytes = b""


def from_der(der: bytes) -> Certificate | None:
    try:
        return _certificate(der)
    except (ValueError, IndexError):
        return None


def from_pem(text: str) -> tuple[Certificate, ...]:
    """All that it holds."""
    found = []
    for block in _PEM.findall(text):
        try:
            der = ssl.PEM_cert_to_DER_cert(block)
        except ValueError:
            continue
        certificate = from_der(der)
        if certificate is not None:
            found.append(certificate)
    return tuple(found)


def signed_by(certificate: Certificate, authority: Certificate) -> bool | None:
    """By what both say of the key; `None`: they do not say."""
    if certificate.issuer != authority.subject:
        return False
    if not certificate.issuer_key or not authority.key:
        return None
    return certificate.issuer_key == authority.key


def _certificate(der: bytes) -> Certificate:
    (_, whole), *_ = _parts(der)
    (_, body), *_ = _parts(whole)
    fields = list(_parts(body))
    if fields[0][0] == _VERSION:
        del fields[0]
    _, _, issuer, validity, subject, *others = [value for _, value in fields]
    begins, ends = (_time(tag, value) for tag, value in _parts(validity))
    extensions = dict(_extensions([value for tag, value in fields if tag == _EXTENSIONS])) if others else {}
    return Certificate(
        subject=_name(subject),
        issuer=_name(issuer),
        begins=begins,
        ends=ends,
        names=tuple(_alternatives(extensions.get(_NAMES, b""))),
        key=_inner(extensions.get(_SUBJECT_KEY, b"")),
        issuer_key=_inner(_inner(extensions.get(_AUTHORITY_KEY, b""))),
    )


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content, one after the other."""
    at = 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        if at + length > len(data):
            raise ValueError("cut off")
        yield tag, data[at : at + length]
        at += length


def _inner(data: bytes) -> bytes:
    return next(_parts(data))[1] if data else b""


def _time(tag: int, value: bytes) -> float:
    form = "%y%m%d%H%M%SZ" if tag == _SHORT_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(value.decode("ascii"), form).replace(tzinfo=UTC).timestamp()


def _name(data: bytes) -> str:
    found = {}
    for _, attributes in _parts(data):
        for _, attribute in _parts(attributes):
            (_, kind), (_, value) = _parts(attribute)
            found[kind] = value.decode("utf-8", "replace")
    return found.get(_COMMON_NAME) or found.get(_ORGANISATION) or "an authority without a name"


def _extensions(given: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    for _, listed in _parts(given[0] if given else b""):
        for _, extension in _parts(listed):
            (_, kind), *_, (_, value) = _parts(extension)
            yield kind, value


def _alternatives(data: bytes) -> Iterator[str]:
    for tag, value in _parts(_inner(data)) if data else ():
        if tag == _DNS_NAME:
            yield value.decode("ascii", "replace")
        elif tag == _IP_ADDRESS:
            yield str(ip_address(value))


def when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
