"""The servers of these tests leave nothing open behind, whenever they are stopped."""

import asyncio
import contextlib
import socket

import pytest

from tests.integration.registry.servers import Server


async def swallow(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Take everything, say nothing."""
    await reader.read()


@pytest.mark.parametrize("turns", range(8))
async def test_a_connection_that_comes_while_it_stops_is_closed(turns: int) -> None:
    """However far the loop has come with it: the client is told, and no socket is left to the collector."""
    server = Server(swallow)
    await server.start()
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        for _ in range(turns):
            await asyncio.sleep(0)
        await server.stop()
        client.settimeout(0)
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionResetError):  # never accepted: the kernel's answer
                assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
