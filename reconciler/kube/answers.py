"""What an API server's answer says when it is not what was asked for. Pure.

403 names the rule that would grant it, as one line of YAML. 401 is about the credentials, and what can be read of them
(the end of a token or certificate) is told before anything is guessed. The server's words are shown, without a token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from cni.spec import Refusal
from reconciler.kube.access import Access
from reconciler.kube.certificate import when
from reconciler.kube.codes import Trouble
from reconciler.kube.diagnose import server_place
from reconciler.kube.material import claims
from reconciler.kube.ports import HttpRefusal as HttpRefusal
from reconciler.kube.transport import Answer, Request

MAX_WORDS = 300
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029]+")
_CANNOT = re.compile(r'(?:User "(?P<user>[^"]*)" )?cannot (?P<verb>\w+) (?:resource|path) "(?P<what>[^"]*)"'
                     r'(?: in API group "(?P<group>[^"]*)")?(?: in the namespace "(?P<namespace>[^"]*)")?')  # fmt: skip
_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch"}
_CURES = {
    404: "nothing of this name is there now; see that the name is right",
    409: "somebody was faster: read it again",
    422: "it is not as was expected: read it again",
    429: "it is asked again later, as it wishes",
}
_ORIGIN = re.compile(r"https?://[\w.:\[\]-]+")


def read(access: Access, request: Request, answer: Answer, authorization: str | None, now: float) -> Any | Refusal:
    """Its JSON; of a failure why, and what helps."""
    data = _json(answer.body)
    if 200 <= answer.status < 300 and isinstance(data, Mapping):
        return data
    return refusal(access, request, answer, authorization, now)


def refusal(access: Access, request: Request, answer: Answer, authorization: str | None, now: float) -> HttpRefusal:
    words = _words(_json(answer.body), answer.body)
    if authorization:
        words = words.replace(authorization.partition(" ")[2] or authorization, "[token]")
    code, what, cure = _refused(access, request, answer, words, authorization, now)
    return HttpRefusal(code, f"{access}: {what}", cure, status=answer.status, retry_after=answer.retry_after)


def _refused(
    access: Access, request: Request, answer: Answer, words: str, authorization: str | None, now: float
) -> tuple[Trouble, str, str]:
    shown = words[:MAX_WORDS]
    said = f": {shown}" if shown else ""
    if answer.status == 401:
        return Trouble.API_CREDENTIALS, *_unauthorized(access, authorization, now)
    if answer.status == 403:
        return _forbidden(access, request, words, authorization)
    if 300 <= answer.status < 400:
        named = _ORIGIN.match(answer.location)
        what = f"it sends callers to {named.group() if named else 'another page'}"
        return Trouble.API_ANSWER, what, f"write the API server's own URL into {server_place(access)}"
    if 200 <= answer.status < 300:
        what = f"it answered {request} with {shown or 'nothing'}, which is not JSON of an API server"
        return Trouble.API_ANSWER, what, f"see that {server_place(access)} is an API server's"
    what = f"it answered {request} with {answer.status}{said}"
    return Trouble.API_ANSWER, what, _CURES.get(answer.status, "see kube-apiserver's log for this request")


def _unauthorized(access: Access, authorization: str | None, now: float) -> tuple[str, str]:
    ends = claims(authorization or "").ends
    if ends is not None and ends <= now:
        what = f"the token expired at {when(ends)} (401), and this node's clock says {when(now)}"
        if access.token_file is None:
            return what, "make a new one, or name a file with kube.tokenFile that somebody renews"
        return what, f"see why nobody renews {access.token_file}: a Secret mounted with subPath is never renewed"
    if access.own is not None and not access.own.begins <= now <= access.own.ends:
        what = f"the client certificate is valid from {when(access.own.begins)} to {when(access.own.ends)} (401)"
        cure = "a kubelet renews its own: see its log, and `rotateCertificates`; kubeadm certs renew does the rest"
        return f"{what}, and this node's clock says {when(now)}", cure
    if authorization is None and access.own is None:
        return "it wants credentials (401)", "name a kubeconfig with kube.kubeconfig, or a token with kube.tokenFile"
    cure = "make new credentials: these are of another cluster, of before it was made anew, or were revoked"
    return "it does not accept these credentials (401)", cure


def _forbidden(access: Access, request: Request, words: str, authorization: str | None) -> tuple[Trouble, str, str]:
    found = _CANNOT.search(words)
    said = f"it does not permit {request} (403)"
    if authorization is None and access.own is None:
        cure = "name a kubeconfig with kube.kubeconfig, or a token with kube.tokenFile"
        return Trouble.API_CREDENTIALS, f"{said} to somebody without credentials", cure
    if found is None:
        cure = f"let these credentials {_VERBS.get(request.method, 'do')} it, by a role that is bound to them"
        return Trouble.API_FORBIDDEN, f"{said}: {words[:MAX_WORDS]}", cure
    user, verb, what, group = (found[name] or "" for name in ("user", "verb", "what", "group"))
    where = f" in namespace {found['namespace']}" if found["namespace"] else ""
    if what.startswith("/"):
        rule = f'{{nonResourceURLs: ["{what}"], verbs: ["{verb}"]}}'
    else:
        rule = f'{{apiGroups: ["{group}"], resources: ["{what}"], verbs: ["{verb}"]}}'
    kind = "Role" if where else "ClusterRole"
    return (
        Trouble.API_FORBIDDEN,
        f"{user or 'this account'} may not {verb} {what}{where} (403)",
        f"add to a {kind} that is bound to {user or 'it'}: - {rule}",
    )


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except ValueError:
        return None


def _words(data: Any, body: bytes) -> str:
    if isinstance(data, Mapping):
        message = data.get("message")
        return _UNPRINTABLE.sub(" ", message).strip() if isinstance(message, str) else ""
    plain = body[: 4 * MAX_WORDS].decode(errors="replace")
    return "a page of HTML" if plain.lstrip().startswith("<") else _UNPRINTABLE.sub(" ", plain).strip()
