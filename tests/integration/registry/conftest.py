"""Servers and clients that end with the test."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import trustme
import uvloop

from consumer.registry.client import RegistryClient, httpx_transport
from consumer.registry.tls import Tls
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


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """On both loops: the service runs on uvloop, where there is one."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=["ours", "httpx"])
def transport(request: pytest.FixtureRequest) -> str:
    """Whose transport carries the journeys: one contract holds for both."""
    return str(request.param)


@pytest.fixture
async def connect(transport: str) -> AsyncIterator[Connect]:
    """Make Registry clients that are closed with the test: two seconds, eight connections."""
    clients: list[RegistryClient] = []

    def make(target: Server | str, **changes: object) -> RegistryClient:
        url = target if isinstance(target, str) else f"http://127.0.0.1:{target.port}"
        settings: dict[str, object] = {"api_version": "v3", "timeout_seconds": 2.0, "concurrency": 8}
        settings |= changes
        ca_file = settings.pop("ca_file", None)
        tls = settings.setdefault("tls", Tls(ca_file=ca_file))  # type: ignore[arg-type]
        if transport == "httpx" and "proxy" not in settings:
            settings["transport"] = httpx_transport(settings["concurrency"], tls)  # type: ignore[arg-type]
        client = RegistryClient(url=url, **settings)  # type: ignore[arg-type]
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.aclose()


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """An authority that no machine knows."""
    return trustme.CA()


@pytest.fixture
def full_backlog() -> Iterator[int]:
    """A listening port whose queue is full: the kernel drops the first packet of whoever connects."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                filler.connect(listener.getsockname())
        yield listener.getsockname()[1]
