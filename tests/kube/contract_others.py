"""What holds between `others.read` and an API server: pages, one that is forgotten, and who may not read them."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network
from itertools import count
from typing import Any

from cni.spec import Refusal
from reconciler.kube import others
from reconciler.kube.client import Client
from reconciler.kube.codes import Trouble
from tests.kube.contract_tools import Environment, client, fresh, good, refused

numbers = count(1)


class Paged:
    """A client that gets pages of three, and does something once the first is there; `pages` has how many of each."""

    def __init__(self, api: Client, after: Any = None) -> None:
        self.api, self.after, self.pages = api, after, list[int]()
        self.endpoint = api.endpoint

    async def get(self, path: str, query: Mapping[str, str]) -> Any:
        found = await self.api.get(path, {**query, "limit": "3"})
        if not isinstance(found, Refusal):
            self.pages.append(len(found["items"]))
            if self.after and len(self.pages) == 1:
                await self.after()
        return found


async def _eight_nodes(environment: Environment) -> dict[str, Any]:
    """By name, what they say that they have: the lab may have others of the same CIDR, given by the cluster."""
    said = {fresh(environment): ip_network(f"fd00:{next(numbers):x}::/64") for _ in range(8)}
    for name, cidr in said.items():
        await environment.add_node(name, annotations={"headcni.io/pod-cidr": str(cidr)})
    return said


async def whose_pods_are_where_is_read_page_by_page(environment: Environment) -> None:
    said = await _eight_nodes(environment)
    own = next(iter(said))
    async with client(environment) as api:
        paged = Paged(api)
        found = await good(others.read(paged, own))  # type: ignore[arg-type]
        assert {cidr: name for name, cidr in said.items() if name != own}.items() <= found.networks.items()
        assert own not in found.networks.values()
        assert len(paged.pages) >= 3
        assert set(paged.pages[:-1]) == {3}
        assert found.nodes == sum(paged.pages)


async def what_is_forgotten_between_two_pages_is_read_from_the_beginning(environment: Environment) -> None:
    said = await _eight_nodes(environment)
    last = "z" + fresh(environment)

    async def meanwhile() -> None:
        said[last] = ip_network(f"fd00:{next(numbers):x}::/64")
        await environment.add_node(last, annotations={"headcni.io/pod-cidr": str(said[last])})
        await environment.forget()

    async with client(environment) as api:
        found = await good(others.read(Paged(api, meanwhile), "nobody"))  # type: ignore[arg-type]
        assert {cidr: name for name, cidr in said.items()}.items() <= found.networks.items()


async def who_may_only_read_its_own_node_is_refused_all(environment: Environment) -> None:
    await environment.allow("get watch", "nodes")
    async with client(environment, "guest") as api:
        refusal = await refused(others.read(api, "worker-1"), Trouble.API_FORBIDDEN, 403)
        assert refusal.details.endswith('- {apiGroups: [""], resources: ["nodes"], verbs: ["list"]}')


CHECKS = (
    whose_pods_are_where_is_read_page_by_page,
    what_is_forgotten_between_two_pages_is_read_from_the_beginning,
    who_may_only_read_its_own_node_is_refused_all,
)
