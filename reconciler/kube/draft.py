"""What a candidate's files say, put together and checked: all that can be wrong before anything is dialled or run.

It does without the package `kubernetes`, so `headcni doctor` can look at every way on any node.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cni.spec import Refusal
from reconciler.kube import kubeconfig
from reconciler.kube.candidates import Candidate, Origin
from reconciler.kube.certificate import Certificate, from_pem, when
from reconciler.kube.codes import Trouble
from reconciler.kube.kubeconfig import ROOT, Kubeconfig, missing, refused
from reconciler.kube.material import HostFile, Material, Place, claims, read, read_token

_LOCAL = ("localhost", "127.0.0.1", "::1")
AUTHORITY, CERTIFICATE, KEY = "certificate-authority", "client-certificate", "client-key"


@dataclass(slots=True)
class Draft:
    cluster: dict[str, Any]
    user: dict[str, Any]
    cluster_place: Place
    user_place: Place
    expires: float | None = None
    token_file: HostFile | None = None
    material: dict[str, Material] = field(default_factory=dict)


def inspect(candidate: Candidate, root: Path, now: float) -> Refusal | None:
    """What its files alone tell: nothing is dialled, and no exec plugin is run."""
    root = root if candidate.origin is Origin.KUBELET else ROOT
    chosen = kubeconfig.read(candidate.kubeconfig, root) if candidate.kubeconfig else None
    if isinstance(chosen, Refusal):
        return chosen
    draft = draft_of(candidate, chosen, root)
    draft.user.pop("exec", None)
    return collect(draft) or check(draft) or _overdue(draft, now)


def draft_of(candidate: Candidate, chosen: Kubeconfig | None, root: Path) -> Draft:
    cluster = dict(chosen.cluster) if chosen else {}
    user = dict(chosen.user) if chosen and candidate.token_file is None else {}
    folder = chosen.file.parent if chosen else Path("/")
    cluster_place = Place(chosen.cluster_place if chosen else str(candidate.origin), folder, root)
    user_place = Place(chosen.user_place if chosen else str(candidate.origin), folder, root)
    if candidate.url:
        cluster["server"] = candidate.url
    if candidate.ca_file is not None:
        cluster.pop(f"{AUTHORITY}-data", None)
        cluster[AUTHORITY] = str(candidate.ca_file)
        cluster_place = Place(str(candidate.origin), Path("/"))
    token_file = HostFile(candidate.token_file) if candidate.token_file else None
    return Draft(cluster, user, cluster_place, user_place, token_file=token_file)


def collect(draft: Draft) -> Refusal | None:
    for part, key, place in (
        (draft.cluster, AUTHORITY, draft.cluster_place),
        (draft.user, CERTIFICATE, draft.user_place),
        (draft.user, KEY, draft.user_place),
    ):
        found = read(part, key, place)
        if isinstance(found, Refusal):
            return found
        if found is not None:
            draft.material[key] = found
            part.pop(f"{key}-data", None)
    named = draft.user.pop("tokenFile", None)
    if named and not draft.user.get("token"):
        draft.token_file = draft.user_place.file(str(named))
    return None


def check(draft: Draft) -> Refusal | None:
    url = draft.cluster["server"]
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        known = False
    if not known or "@" in url:
        shown = "the server" if "@" in url else f"server {url}"
        return refused(f"{shown} of {draft.cluster_place.words} is not a URL", "write https://, host and port")
    if parts.scheme == "http" and parts.hostname not in _LOCAL:
        what = f"server {url} of {draft.cluster_place.words} is not encrypted"
        return refused(what, "write https; credentials would be sent in clear")
    for key in (AUTHORITY, CERTIFICATE):
        if key in draft.material and not certificates(draft.material[key]):
            return refused(f"{draft.material[key].words} holds no certificate", "it must be in PEM form")
    if (CERTIFICATE in draft.material) != (KEY in draft.material):
        return missing(draft.user_place.words, KEY if CERTIFICATE in draft.material else CERTIFICATE, draft.user)
    token = read_token(draft.token_file) if draft.token_file else None
    return token if isinstance(token, Refusal) else None


def _overdue(draft: Draft, now: float) -> Refusal | None:
    clock = f"and this node's clock says {when(now)}"
    own = (*certificates(draft.material.get(CERTIFICATE)), None)[0]
    if own is not None and not own.begins <= now <= own.ends:
        valid = f"is valid from {when(own.begins)} to {when(own.ends)}, {clock}"
        cure = "a kubelet renews its own: see its log, and `rotateCertificates`; kubeadm certs renew does the rest"
        return Refusal(Trouble.API_CREDENTIALS, f"the client certificate of {draft.user_place.words} {valid}", cure)
    token = read_token(draft.token_file) if draft.token_file else draft.user.get("token")
    ends = claims(token).ends if isinstance(token, str) else None
    if ends is not None and ends <= now:
        whose = draft.token_file or draft.user_place.words
        return Refusal(Trouble.API_CREDENTIALS, f"the token of {whose} expired at {when(ends)}, {clock}", "renew it")
    return None


def certificates(material: Material | None) -> tuple[Certificate, ...]:
    return from_pem(material.content.decode("ascii", "replace")) if material else ()
