"""Whether the control server's port can be reached at all: asked before tailscaled is made to ask it for everything.

A refresh while the control server is away takes a node out of Running, and its pods off the mesh, although nothing was
wrong with it. What the server would answer is not looked at here: tailscaled has its own keys and authorities.
"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from reconciler.mesh.controlurl import normal

SECONDS = 2.0
PORTS = {"http": 80, "https": 443}


async def reachable(url: str) -> bool:
    parts = urlsplit(normal(url))
    try:
        port = parts.port or PORTS.get(parts.scheme, 443)
        async with asyncio.timeout(SECONDS):
            _, writer = await asyncio.open_connection(parts.hostname, port)
    except (OSError, TimeoutError, ValueError):
        return False
    writer.close()
    return True
