"""Settings come in, parts come out: what is configured is what is built."""

import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from consumer.app import Assembled, assemble, build_breakers, build_policy, build_token_source, build_topology
from consumer.broker.consumer import AmqpConsumer
from consumer.broker.publisher import AmqpPublisher
from consumer.broker.virtual import VirtualLink
from consumer.config import Settings
from consumer.core.breaker import BreakerState
from consumer.core.outcome import PauseCause
from consumer.logs import Output
from consumer.metrics import Metrics
from consumer.registry.client import RegistryClient
from consumer.registry.tokens import FileToken, StaticToken
from tests.clock import FakeClock


def settings(**given: Any) -> Settings:
    """Make settings that go together, as ``load`` would have checked them."""
    return Settings(**{"registry_url": "http://localhost:1", **given})


def registry(handler: Any = None) -> RegistryClient:
    """Make a Registry on no network."""
    return RegistryClient(
        url="http://localhost:1",
        api_version="v3.3",
        timeout_seconds=1.0,
        concurrency=1,
        transport=httpx.MockTransport(handler or (lambda _: httpx.Response(500))),
    )


def test_topology_is_what_the_settings_say() -> None:
    """Every name and number of the queues."""
    topology = build_topology(
        settings(
            broker_queue="q",
            broker_exchange="e",
            broker_routing_key="k",
            retry_delays_seconds="5,10",
            broker_delivery_limit=7,
        )
    )
    assert topology.main.bindings == (("e", "k"),)
    assert topology.main.arguments["x-delivery-limit"] == 7
    assert (topology.queue, topology.delays_seconds) == ("q", (5, 10))
    assert build_topology(settings()).main.bindings == ()


def test_policy_is_what_the_settings_say() -> None:
    """Every number of retrying."""
    policy = build_policy(
        settings(
            retry_max_attempts=9,
            retry_attempts_per_visit=2,
            retry_backoff_base_seconds=0.25,
            retry_backoff_cap_seconds=3,
            retry_delays_seconds="5,10",
            early_bound_seconds=77,
        )
    )
    assert (policy.max_attempts, policy.attempts_per_delivery) == (9, 2)
    assert (policy.backoff_base_seconds, policy.backoff_cap_seconds) == (0.25, 3)
    assert (policy.delays_seconds, policy.early_bound_seconds) == ((5, 10), 77)


@pytest.mark.parametrize(
    ("cause", "threshold"),
    [
        (PauseCause.UNAUTHORIZED, 4),
        (PauseCause.FORBIDDEN, 4),
        (PauseCause.MISCONFIGURED, 6),
        (PauseCause.UNAVAILABLE, 6),
    ],
)
def test_each_breaker_opens_at_its_own_threshold(cause: PauseCause, threshold: int) -> None:
    """`AUTH_PAUSE_AFTER` for the token, `BREAKER_THRESHOLD` for an outage or a wrong route."""
    breaker = build_breakers(settings(auth_pause_after=4, breaker_threshold=6))[cause]
    for number in range(threshold):
        assert breaker.state is BreakerState.CLOSED
        breaker.failure(number, float(number), 0.0)
    assert breaker.state is BreakerState.OPEN


def test_the_token_comes_from_where_it_is_configured(tmp_path: Path) -> None:
    """A setting or a file."""
    file = tmp_path / "token"
    file.write_text("from-a-file\n")
    static = build_token_source(settings(registry_token="from-a-setting"), registry())
    from_file = build_token_source(settings(registry_token_file=file), registry())
    assert isinstance(static, StaticToken)
    assert isinstance(from_file, FileToken)
    assert static.held.secret == "from-a-setting"
    assert from_file.held is not None
    assert from_file.held.secret == "from-a-file"


async def test_keys_are_read_anew_at_every_exchange(tmp_path: Path) -> None:
    """A mounted Secret is rotated under the running process."""
    asked: list[dict[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        return httpx.Response(201, json={"access_token": f"token-{len(asked)}"})

    file = tmp_path / "secret"
    file.write_text("one")
    tokens = build_token_source(
        settings(
            registry_api_version="v3.3", registry_access_key="access", registry_secret_key_file=str(file)
        ),
        registry(answer),
    )
    assert await tokens.token() == "token-1"
    file.write_text("two")
    assert await tokens.renew("token-1")
    assert await tokens.token() == "token-2"
    assert asked == [
        {"access_key": "access", "secret_key": "one"},
        {"access_key": "access", "secret_key": "two"},
    ]


def _assembled(url: str, clock: FakeClock) -> Assembled:
    """The service on this broker."""
    return assemble(
        settings(broker_url=url, registry_token="t"),
        Metrics(CollectorRegistry()),
        Output(io.BytesIO()),
        clock=clock,
        now=clock.now,
    )


@pytest.mark.parametrize(
    ("url", "consumer", "publisher"),
    [
        ("amqp://localhost//", AmqpConsumer, AmqpPublisher),
        ("amqps://localhost//", AmqpConsumer, AmqpPublisher),
        ("memory://", VirtualLink, VirtualLink),
        ("sqs://?region=eu-west-3", VirtualLink, VirtualLink),
    ],
)
async def test_the_broker_is_the_urls(url: str, consumer: type, publisher: type, clock: FakeClock) -> None:
    """AMQP has two connections; another transport is both sides in one."""
    made = _assembled(url, clock)
    service = made.service
    assert type(service._consumer) is consumer
    assert type(service._publisher) is publisher
    assert (service._consumer is service._publisher) is (consumer is VirtualLink)
    assert made.health.obstacle == "starting"
    await service._publisher.close()
    await service._consumer.close()
    await service._close_registry()


@pytest.mark.parametrize(
    ("url", "returning"),
    [("amqp://localhost", True), ("sqs://?region=eu-west-3", False), ("memory://", False)],
)
async def test_dead_letters_return_by_themselves_where_that_is_safe(
    url: str,
    returning: bool,  # noqa: FBT001
    clock: FakeClock,
) -> None:
    """On transports where what is taken is in no queue a crash would lose all that was read."""
    service = _assembled(url, clock).service
    assert service._auto_replayer is not None
    assert service._auto_replayer._returning is returning
    await service._publisher.close()
    await service._consumer.close()
    await service._close_registry()
