"""TLS to Headscale: whom we believe, and why we do not believe a certificate.

`headscale.caFile` stands in the place of the system's authorities, not beside them: who names one wants that one. The
file is read again after each failure, so a corrected one needs no restart.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble

_UNKNOWN_AUTHORITY = {2, 18, 19, 20, 21}  # X509_V_ERR_… of OpenSSL
_NOT_NOW = {9, 10}
_WRONG_NAME = {62, 64}
_LOOK = 5.0  # seconds to fetch a certificate again, to say what it carries


def context(ca_file: Path | None) -> ssl.SSLContext | Refusal:
    cure = "write certificates in PEM form into it, readable by this program"
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        return Refusal(Trouble.HEADSCALE_TLS, f"headscale.caFile {ca_file} holds no certificate", cure)
    except OSError as error:
        return Refusal(Trouble.HEADSCALE_TLS, f"headscale.caFile {ca_file} cannot be read: {error.strerror}", cure)


async def refusal(url: str, error: Exception, ca_file: Path | None) -> Refusal:
    code = getattr(error, "verify_code", 0)
    if code in _UNKNOWN_AUTHORITY:
        believed = f"headscale.caFile {ca_file}" if ca_file else "the authorities of this system"
        what = f"the certificate of {url} is of an authority that is not in {believed}"
        return Refusal(Trouble.HEADSCALE_TLS, what, "name the file with its authority by headscale.caFile")
    if code in _WRONG_NAME:
        carries = await _names(url, ca_file)
        what = f"the certificate of {url} is for another name{f': it carries {carries}' if carries else ''}"
        return Refusal(Trouble.HEADSCALE_TLS, what, "use a name that it carries in headscale.url, or renew it")
    if code in _NOT_NOW:
        what = f"the certificate of {url} {'has expired' if code == 10 else 'is not valid yet'}"
        return Refusal(Trouble.HEADSCALE_TLS, what, "renew it on the server; and check this node's clock")
    words = str(getattr(error, "verify_message", "") or getattr(error, "reason", "") or "no reason given")
    what = f"no TLS connection to {url}: {words.replace('_', ' ').lower()}"
    cure = "see the server's certificate, and headscale.caFile; if it serves plain HTTP, write http://"
    return Refusal(Trouble.HEADSCALE_TLS, what, cure)


async def _names(url: str, ca_file: Path | None) -> str:
    """What the certificate is for; the chain is trusted, only the name was wrong. No request is sent."""
    trusting_names = context(ca_file)
    if isinstance(trusting_names, Refusal):
        return ""
    trusting_names.check_hostname = False
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(_LOOK):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 443, ssl=trusting_names)
            certificate: Mapping[str, Any] = writer.get_extra_info("peercert") or {}
            writer.close()
            await writer.wait_closed()
    except OSError:  # of which timeouts and TLS errors are kinds
        return ""
    return ", ".join(str(name) for _, name in certificate.get("subjectAltName", ()))
