"""Servers and clients that end with the test."""

import ssl
from collections.abc import AsyncIterator

import pytest
import trustme

from consumer.registry.client import RegistryClient
from tests.integration.registry.servers import Connect, Handler, Serve, Server


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start servers that end with the test."""
    servers: list[Server] = []

    async def start(handler: Handler, context: ssl.SSLContext | None = None) -> Server:
        server = Server(handler)
        servers.append(server)
        await server.start(context)
        return server

    yield start
    for server in servers:
        await server.stop()


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Make Registry clients that are closed with the test: two seconds, eight connections."""
    clients: list[RegistryClient] = []

    def make(target: Server | str, **changes: object) -> RegistryClient:
        url = target if isinstance(target, str) else f"http://127.0.0.1:{target.port}"
        settings: dict[str, object] = {"api_version": "v3", "timeout_seconds": 2.0, "concurrency": 8}
        client = RegistryClient(url=url, **{**settings, **changes})  # type: ignore[arg-type]
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.aclose()


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """An authority that no machine knows."""
    return trustme.CA()
