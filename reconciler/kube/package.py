"""The package `kubernetes`: of it the reading of a configuration, and the pool of connections that follows from it.

Everything that touches the package is here, because importing it has a price: 0.25 s of CPU and, in a daemon that
has loaded the rest, 19 MiB (37.0; 35 and 36 load all their models at import: 1.9 s and 65 MiB more, which is why they
are not supported). So this module is imported late, in a thread. Models and typed calls stay unused: the first of
them would cost 1.5 s and 139 MB. Bodies are bytes, and `transport.py` reads them with orjson.

Rejected: importing its submodules around the `__init__` that loads the rest. Nobody promises that they stand alone.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

import urllib3
from kubernetes.client import Configuration
from kubernetes.client.rest import RESTClientObject
from kubernetes.config import ConfigException
from kubernetes.config.kube_config import KubeConfigLoader

from cni.spec import Refusal
from reconciler.kube.kubeconfig import refused
from reconciler.kube.tlscontext import context

CONNECTIONS = 16  # kept; watches and calls of one daemon are fewer

urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # `Access.authority` says it, once and for all


class Loaded:
    """A server, how its certificate is verified, and the header that proves who we are."""

    def __init__(self, configuration: Any) -> None:
        self._configuration = configuration
        self.url = str(configuration.host)
        self.server_name = str(configuration.tls_server_name or "")
        self.verifies = bool(configuration.verify_ssl)
        self.proxied = bool(configuration.proxy)

    @property
    def authorization(self) -> str | None:
        header: str | None = self._configuration.get_api_key_with_prefix("BearerToken")
        return header

    def pool(self) -> urllib3.PoolManager | Refusal:
        """Certificates and key are read now, once, so that they belong together; not again at each connection."""
        given = self._configuration
        trust: ssl.SSLContext | Refusal | None = None
        if self.url.startswith("https:"):
            trust = context(given.ssl_ca_cert, given.cert_file, given.key_file, given.verify_ssl)
        if isinstance(trust, Refusal):
            return trust
        given.ssl_ca_cert = given.cert_file = given.key_file = None
        given.retries = False  # a failure is diagnosed at once; who asks again decides that for himself
        given.keep_alive = True
        given.connection_pool_maxsize = CONNECTIONS
        made: urllib3.PoolManager = RESTClientObject(given).pool_manager
        if trust is not None:
            made.connection_pool_kw["ssl_context"] = trust
        return made


def load(cluster: Mapping[str, Any], user: Mapping[str, Any], place: str) -> Loaded | Refusal:
    """What is in them has been checked: nothing is run here, and files are those of the caller."""
    document = {
        "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "clusters": [{"name": "it", "cluster": dict(cluster)}],
        "users": [{"name": "it", "user": dict(user)}],
    }
    configuration = Configuration()
    try:
        KubeConfigLoader(document, config_base_path="").load_and_set(configuration)  # type: ignore[no-untyped-call]
    except (ConfigException, TypeError, AttributeError):  # a value of another kind than its key wants
        return refused(f"{place} has a value that cannot be used", "compare it with one that `kubectl` accepts")
    return Loaded(configuration)
