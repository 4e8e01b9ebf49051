"""Sandboxes with a clock that only tests move, and journeys to send to them.

The clock stands at 2026-11-23T16:00:00Z.

Every name, phone and key here is invented.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from consumer.sandbox import Sandbox
from tests.clock import FakeClock


class Client:
    """Posts journeys to one sandbox over real HTTP."""

    def __init__(self, sandbox: Sandbox, http: httpx.AsyncClient) -> None:
        self.sandbox = sandbox
        self.http = http

    async def post(
        self,
        payload: Any,
        path: str = "/v3.3/journeys",
        token: str | None = "good",  # noqa: S107 -- invented
    ) -> httpx.Response:
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if isinstance(payload, bytes):
            return await self.http.post(path, content=payload, headers=headers)
        return await self.http.post(path, json=payload, headers=headers)

    async def control(self, path: str, settings: Any = None) -> httpx.Response:
        if settings is None:
            return await self.http.get(f"/_sandbox/{path}")
        return await self.http.post(f"/_sandbox/{path}", json=settings)


@pytest.fixture
async def serve(clock: FakeClock) -> AsyncIterator[Callable[..., Awaitable[Client]]]:
    """Start a sandbox that accepts the token ``good``; stopped after the test."""
    started: list[Client] = []

    async def start(**settings: Any) -> Client:
        sandbox = Sandbox(**({"tokens": ["good"], "clock": clock.now} | settings))
        await sandbox.start()
        client = Client(sandbox, httpx.AsyncClient(base_url=sandbox.url, trust_env=False, timeout=10))
        started.append(client)
        return client

    yield start
    for client in started:
        await client.http.aclose()
        await client.sandbox.stop()


def _v3(journey_id: str = "journey-1", **changes: Any) -> dict[str, Any]:
    def person(phone: str, key: str) -> dict[str, Any]:
        return {"identity": {"operator_user_id": f"user-{key}", "identity_key": key * 64, "phone": phone}}

    return {
        "operator_journey_id": journey_id,
        "operator_trip_id": f"trip-{journey_id}",
        "operator_class": "C",
        "incentives": [],
        "start": {"datetime": "2026-11-23T14:00:00Z", "lat": 48.85, "lon": 2.36},
        "end": {"datetime": "2026-11-23T15:00:00Z", "lat": 48.68, "lon": 2.38},
        "distance": 24_310,
        "driver": {**person("+33612345678", "a"), "revenue": 400},
        "passenger": {**person("+33687654321", "b"), "contribution": 150, "seats": 1, "payments": []},
    } | changes


def _v2(journey_id: str = "journey-1", **changes: Any) -> dict[str, Any]:
    def person(phone: str) -> dict[str, Any]:
        return {
            "identity": {"phone": phone},
            "start": {"datetime": "2026-11-23T14:00:00Z", "lat": 48.85, "lon": 2.36},
            "end": {"datetime": "2026-11-23T15:00:00Z", "lat": 48.68, "lon": 2.38},
            "incentives": [],
        }

    return {
        "journey_id": journey_id,
        "operator_class": "C",
        "driver": {**person("+33612345678"), "revenue": 400},
        "passenger": {**person("+33687654321"), "contribution": 150},
    } | changes


@pytest.fixture
def v3() -> Callable[..., dict[str, Any]]:
    """Make a valid v3 journey that ended an hour ago; keyword arguments replace root keys."""
    return _v3


@pytest.fixture
def v2() -> Callable[..., dict[str, Any]]:
    """Make a valid v2 journey that ended an hour ago; keyword arguments replace root keys."""
    return _v2
