"""Whom we trust, and with which certificate we come: one SSL context, or the reason why there is none.

A context must read certificate and key from files. What a kubeconfig holds inline is given to it by anonymous ones, so
that no key is written to a disk.
"""

from __future__ import annotations

import os
import ssl
from types import TracebackType

from cni.spec import Refusal
from reconciler.kube.kubeconfig import refused


class AnonymousFiles:
    """In memory, by a path that counts for this process until the block ends."""

    def __init__(self) -> None:
        self._open: list[int] = []

    def __enter__(self) -> AnonymousFiles:
        return self

    def hold(self, content: bytes) -> str:
        descriptor = os.memfd_create("headcni", os.MFD_CLOEXEC)
        self._open.append(descriptor)
        os.write(descriptor, content)
        return f"/proc/self/fd/{descriptor}"

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for descriptor in self._open:
            os.close(descriptor)


def context(authority: str | None, certificate: str | None, key: str | None, verify: bool) -> ssl.SSLContext | Refusal:
    """Certificates are known to be there; whether they are whole and fit together is found out here."""
    try:
        made = ssl.create_default_context(cafile=authority)
    except ssl.SSLError:
        return refused("a certificate of the authority is damaged", "take it anew; a line of it may be cut off")
    made.verify_flags &= ~ssl.VERIFY_X509_STRICT  # from Python 3.13 on; authorities of old clusters do not pass it
    if not verify:
        made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    if certificate:
        try:
            made.load_cert_chain(certificate, key, password=lambda: "")  # else OpenSSL would ask at the terminal
        except ssl.SSLError:
            return refused(
                "the client certificate and its key do not belong together, or the key is encrypted",
                "take both from one place; a kubelet's are in one file",
            )
    return made
