"""Whether two URLs mean the same control server, however they are spelled: tailscaled takes what it is given."""

from __future__ import annotations

from reconciler.mesh.url import check_url

TAILSCALE = "https://controlplane.tailscale.com"  # what tailscaled means by an empty ControlURL
_SYNONYM = "https://login.tailscale.com"


def same_server(one: str, other: str) -> bool:
    return normal(one) == normal(other)


def normal(url: str) -> str:
    """The one spelling, fit to be shown. What is no URL of a control server equals only itself."""
    checked = check_url(url) if url.strip() else TAILSCALE
    if not isinstance(checked, str):
        return url.strip().rpartition("@")[2]  # before it may be a password
    return TAILSCALE if checked == _SYNONYM else checked
