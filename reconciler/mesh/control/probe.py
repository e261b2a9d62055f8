"""Which generation of the API a server speaks. Asked of the server: no release tells it in the same way.

/version exists since 0.27. Before, the paths tell: 0.22 has no nodes, and routes went with 0.25. /health comes first,
because many a web server answers every path with 200 and a page.
"""

from __future__ import annotations

from collections.abc import Mapping

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble
from reconciler.mesh.control.api import Answer, Api
from reconciler.mesh.control.approvals import APPROVALS
from reconciler.mesh.control.backend import Backend
from reconciler.mesh.control.rows import MACHINES, NODES


async def probe(api: Api) -> Backend | Refusal:
    health = await api.open_call("/health")
    if isinstance(health, Refusal):
        return health
    if _of(health, "status") != "pass":
        return _no_headscale(api.url, health)
    version = await api.open_call("/version")
    if isinstance(version, Refusal):
        return version
    if version.status == 200 and _of(version, "version"):
        return APPROVALS
    for path, if_missing in (("/api/v1/node", MACHINES), ("/api/v1/routes", APPROVALS)):
        answer = await api.call("GET", path)
        if isinstance(answer, Refusal):
            return answer
        if answer.status == 404:
            return if_missing
        if answer.status != 200:
            return answer.refusal(api.url)
    return NODES


def _of(answer: Answer, name: str) -> str:
    return str(answer.data.get(name) or "") if isinstance(answer.data, Mapping) else ""


def _no_headscale(url: str, health: Answer) -> Refusal:
    if health.status >= 500 or _of(health, "status"):  # Headscale itself that is ill, or a proxy before it
        return health.refusal(url)
    if health.status == 400 and "HTTPS" in health.words:
        return Refusal(Trouble.HEADSCALE_URL, f"{url} speaks HTTPS, not HTTP", "write https:// in headscale.url")
    what = f"{url} is not Headscale: {health.call} does not say that it is ({health.status})"
    return Refusal(Trouble.HEADSCALE_URL, what, "write scheme, host and port of Headscale's server_url, without a path")
