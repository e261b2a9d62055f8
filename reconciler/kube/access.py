"""A way to an API server that is open: where, by which connections, with whose credentials, and the words for it.

A token in a file is read at each call, because kubelet renews it in place. Everything else was read once, together,
and counts until `stale` says that the disk holds something else. Nothing here shows a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import urllib3

from cni.spec import Refusal
from reconciler.kube.candidates import Candidate
from reconciler.kube.certificate import Certificate
from reconciler.kube.kubeconfig import Kubeconfig
from reconciler.kube.material import HostFile, read_token


@dataclass(frozen=True, slots=True)
class Access:
    candidate: Candidate
    url: str
    who: str  # whose credentials
    authority: str  # where those are that we believe
    pool: urllib3.PoolManager = field(repr=False)
    server_name: str = ""  # that the certificate must carry, if not the host
    authorities: tuple[Certificate, ...] = ()
    own: Certificate | None = None  # with which we come
    token_file: HostFile | None = None
    header: str | None = field(default=None, repr=False)
    expires: float | None = None  # of an exec plugin's credentials
    service: bool = False  # the URL is that of a Service
    proxied: bool = False
    kubeconfig: Kubeconfig | None = None
    files: Mapping[HostFile, bytes] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.url} with {self.who}"

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        parts = urlsplit(self.url)
        return parts.port or (443 if parts.scheme == "https" else 80)

    def stale(self, now: float) -> bool:
        if self.expires is not None and now >= self.expires:
            return True
        return any(file.digest() != before for file, before in self.files.items())

    def authorization(self) -> str | Refusal | None:
        if self.token_file is None:
            return self.header
        token = read_token(self.token_file)
        return token if isinstance(token, Refusal) else f"Bearer {token}"
