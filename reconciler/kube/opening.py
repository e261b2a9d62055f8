"""From a candidate to an open way: everything that can be wrong on this side is found before anything is dialled.

All candidates take the same way: server, authority and credentials in the form of a kubeconfig, read by the package's
loader. Its loader for pods brings two files and two variables into that form, which `candidates.py` has done already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cni.spec import Refusal
from reconciler.kube import execplugin, kubeconfig
from reconciler.kube.access import Access
from reconciler.kube.candidates import Candidate, Origin, is_service
from reconciler.kube.certificate import Certificate
from reconciler.kube.draft import AUTHORITY, CERTIFICATE, Draft, certificates, check, collect, draft_of
from reconciler.kube.kubeconfig import ROOT, UNVERIFIED, Kubeconfig, refused
from reconciler.kube.material import HostFile, Material, claims, read_token
from reconciler.kube.package import load
from reconciler.kube.tlscontext import AnonymousFiles
from reconciler.settings import Network


def open_access(candidate: Candidate, services: Sequence[Network] = (), root: Path = ROOT) -> Access | Refusal:
    """Blocking: reads files, and may run an exec plugin. `root`: of the host, whose files the kubelet's are."""
    root = root if candidate.origin is Origin.KUBELET else ROOT
    if candidate.kubeconfig is None:
        return _open(candidate, None, {}, services, root)
    file = HostFile(candidate.kubeconfig, root)
    digest = file.digest()
    chosen = kubeconfig.read(candidate.kubeconfig, root)
    return chosen if isinstance(chosen, Refusal) else _open(candidate, chosen, {file: digest}, services, root)


def _open(
    candidate: Candidate,
    chosen: Kubeconfig | None,
    files: Mapping[HostFile, bytes],
    services: Sequence[Network],
    root: Path,
) -> Access | Refusal:
    draft = draft_of(candidate, chosen, root)
    wrong = _plugin(draft, chosen) or collect(draft) or check(draft)
    if wrong is not None:
        return wrong
    named = {each.file: each.digest for each in draft.material.values() if each.file is not None}
    return _opened(candidate, chosen, draft, {**files, **named}, services)


def _plugin(draft: Draft, chosen: Kubeconfig | None) -> Refusal | None:
    if chosen is None or "exec" not in draft.user:
        return None
    issued = execplugin.run(chosen)
    if isinstance(issued, Refusal):
        return issued
    draft.user, draft.expires = dict(issued.user), issued.expires
    return None


def _opened(
    candidate: Candidate,
    chosen: Kubeconfig | None,
    draft: Draft,
    files: Mapping[HostFile, bytes],
    services: Sequence[Network],
) -> Access | Refusal:
    with AnonymousFiles() as anonymous:
        paths = {key: anonymous.hold(each.content) for key, each in draft.material.items()}
        loaded = load(draft.cluster | paths, draft.user | paths, draft.cluster_place.words)
        if isinstance(loaded, Refusal):
            return loaded
        pool = loaded.pool()
    if isinstance(pool, Refusal):
        return Refusal(pool.code, f"{draft.user_place.words}: {pool.msg}", pool.details)
    if not all(" " <= each <= "~" for each in loaded.authorization or ""):
        return refused(f"{draft.user_place.words} holds something else than a token", "take a fresh kubeconfig")
    authority = draft.material.get(AUTHORITY)
    own = (*certificates(draft.material.get(CERTIFICATE)), None)[0]
    return Access(
        candidate=candidate,
        url=loaded.url,
        who=_who(draft, own, loaded.authorization),
        authority=_believed(authority, loaded.verifies),
        pool=pool,
        server_name=loaded.server_name,
        authorities=certificates(authority),
        own=own,
        token_file=draft.token_file,
        header=loaded.authorization,
        expires=draft.expires,
        service=is_service(loaded.url, services),
        proxied=loaded.proxied,
        kubeconfig=chosen,
        files=files,
    )


def _believed(authority: Material | None, verifies: bool) -> str:
    if not verifies:
        return UNVERIFIED
    return authority.words if authority else "the authorities of this system"


def _who(draft: Draft, own: Certificate | None, header: str | None) -> str:
    if draft.token_file is not None:
        token = read_token(draft.token_file)
        subject = claims(token).subject if isinstance(token, str) else ""
        return f"the token of {subject} in {draft.token_file}" if subject else f"the token in {draft.token_file}"
    if header is not None:
        kind = "the password" if "password" in draft.user else "the token"
        subject = claims(header).subject
        return f"{kind} of {subject or draft.user_place.words}"
    if own is not None:
        return f"the certificate of {own.subject} ({draft.user_place.words})"
    return "no credentials"
