"""Builds every object by hand and introduces them to one another. Decides nothing itself.

Settings come in, a ``Service`` comes out; ``run``, the demo and the tests all go through here, so
that what is tested is what runs. Must be called on the event loop that will run the service.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, cast

from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from consumer.broker.connection import ConnectionFactory, is_amqp
from consumer.broker.consumer import AmqpConsumer
from consumer.broker.publisher import AmqpPublisher
from consumer.broker.virtual import VirtualLink
from consumer.config import Settings
from consumer.core.breaker import Breaker, BreakerPolicy
from consumer.core.outcome import PauseCause
from consumer.core.policy import Policy
from consumer.core.rate_limiter import RateLimiter
from consumer.core.topology import Topology
from consumer.deadletters.queues import SafeQueueReaders
from consumer.logs import Output, SettlementLog
from consumer.metrics import Metrics
from consumer.registry.client import RegistryClient
from consumer.registry.key_exchange import ExchangedToken
from consumer.registry.secret import read_secret
from consumer.registry.tokens import FileToken, StaticToken, TokenSource
from consumer.service.admission import Admission
from consumer.service.auto_replay import AutoReplayer
from consumer.service.handler import Handler, utc_now
from consumer.service.health import Health
from consumer.service.lifecycle import Service
from consumer.service.outcome_events import OutcomeEvents
from consumer.service.settlement import Settler

#: Requests that may leave at once after a quiet moment; small, so that the pace stays smooth.
RATE_LIMITER_BURST = 16


@dataclass(frozen=True, slots=True)
class Assembled:
    """The service with the parts that its surroundings want to look at."""

    service: Service
    health: Health
    topology: Topology
    admission: Admission


def build_topology(settings: Settings) -> Topology:
    """The queues that these settings ask for."""
    return Topology(
        queue=settings.broker_queue,
        exchange=settings.broker_exchange,
        routing_key=settings.broker_routing_key or "",
        delays_seconds=settings.retry_delays_seconds,
        delivery_limit=settings.broker_delivery_limit,
    )


def build_connections(settings: Settings) -> Callable[[], ConnectionFactory]:
    """A way to make dialers for the broker that these settings name."""
    ca_file = str(settings.broker_ca_file) if settings.broker_ca_file else None
    return lambda: ConnectionFactory(
        settings.broker_urls, heartbeat_seconds=settings.broker_heartbeat_seconds, ca_file=ca_file
    )


def build_policy(settings: Settings) -> Policy:
    """The rules of retrying that these settings ask for."""
    return Policy(
        max_attempts=settings.retry_max_attempts,
        attempts_per_delivery=settings.retry_attempts_per_visit,
        backoff_base_seconds=settings.retry_backoff_base_seconds,
        backoff_cap_seconds=settings.retry_backoff_cap_seconds,
        delays_seconds=settings.retry_delays_seconds,
        early_bound_seconds=settings.early_bound_seconds,
    )


def build_breakers(settings: Settings) -> dict[PauseCause, Breaker]:
    """One breaker for each cause of a pause."""
    auth = BreakerPolicy(
        settings.auth_pause_after,
        settings.auth_probe_seconds,
        max(settings.auth_probe_seconds, settings.breaker_probe_cap_seconds),
    )
    probing = (settings.breaker_probe_seconds, settings.breaker_probe_cap_seconds)
    return {
        PauseCause.UNAUTHORIZED: Breaker(auth),
        PauseCause.FORBIDDEN: Breaker(auth),
        PauseCause.MISCONFIGURED: Breaker(BreakerPolicy(1, *probing)),
        PauseCause.UNAVAILABLE: Breaker(BreakerPolicy(settings.breaker_threshold, *probing)),
    }


def build_registry_client(settings: Settings) -> RegistryClient:
    """The HTTP client of the Registry that these settings ask for."""
    return RegistryClient(
        url=settings.registry_url,
        api_version=settings.registry_api_version,
        timeout_seconds=settings.registry_timeout_seconds,
        concurrency=settings.registry_concurrency,
        ca_file=settings.registry_ca_file,
        proxy=settings.registry_proxy_url.get_secret_value() if settings.registry_proxy_url else None,
    )


def build_token_source(settings: Settings, registry: RegistryClient) -> TokenSource:
    """The way of authenticating that is configured; exactly one is (``config.load`` sees to it)."""
    if settings.registry_token is not None:
        return StaticToken(settings.registry_token.get_secret_value())
    if settings.registry_token_file is not None:
        return FileToken(settings.registry_token_file)

    def read_keys() -> tuple[str, str]:
        return (
            _secret(settings.registry_access_key, settings.registry_access_key_file),
            _secret(settings.registry_secret_key, settings.registry_secret_key_file),
        )

    return ExchangedToken(registry.post_access_token, read_keys=read_keys)


def _secret(value: SecretStr | None, file: Path | None) -> str:
    """Read anew at every exchange, because a mounted Secret is rotated under the running process."""
    if value is not None:
        return value.get_secret_value()
    return read_secret(file) if file is not None else ""


def assemble(
    settings: Settings,
    metrics: Metrics,
    output: Output,
    *,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], datetime] = utc_now,
) -> Assembled:
    """Make the service that ``settings`` describe."""
    topology, policy = build_topology(settings), build_policy(settings)
    registry = build_registry_client(settings)
    tokens = build_token_source(settings, registry)
    rate_limiter = RateLimiter(settings.registry_rate_per_minute, RATE_LIMITER_BURST)
    settlement_log = SettlementLog(output, log_format=settings.log_format, level=settings.log_level)
    health = Health()
    admission = Admission(
        breakers=build_breakers(settings),
        rate_limiter=rate_limiter,
        metrics=metrics,
        clock=clock,
    )
    consumer: AmqpConsumer | VirtualLink
    publisher: AmqpPublisher | VirtualLink
    urls = settings.broker_urls
    if is_amqp(urls[0]):
        connections = build_connections(settings)
        consumer = AmqpConsumer(
            connections=connections(),
            topology=topology,
            prefetch=settings.broker_prefetch,
            declare=settings.broker_declare,
            metrics=metrics,
        )
        publisher = AmqpPublisher(
            connections=connections(),
            topology=topology,
            declare=settings.broker_declare,
            metrics=metrics,
            confirm_timeout_seconds=settings.broker_confirm_timeout_seconds,
        )
    else:
        consumer = publisher = VirtualLink(
            url=urls[0],
            topology=topology,
            prefetch=settings.broker_prefetch,
            metrics=metrics,
        )
    handler = Handler(
        version=cast("Literal['v2', 'v3']", settings.registry_api_version[:2]),
        registry=registry,
        tokens=tokens,
        admission=admission,
        rate_limiter=rate_limiter,
        policy=policy,
        metrics=metrics,
        currency=consumer,
        concurrency=settings.registry_concurrency,
        hold_limit_seconds=settings.hold_limit_seconds,
        clock=clock,
        utc_now=now,
    )
    background: list[AmqpPublisher] = []
    observer: dict[str, Any] = {}
    if settings.events_exchange and is_amqp(urls[0]):
        # A connection of its own, whose troubles are nobody else's; so are its metrics.
        link = AmqpPublisher(
            connections=build_connections(settings)(),
            topology=None,
            declare=False,
            metrics=Metrics(CollectorRegistry()),
            purpose="outcome events",
        )
        background.append(link)
        events = OutcomeEvents(
            link, exchange=settings.events_exchange, queue=topology.queue, metrics=metrics, now=now
        )
        observer["on_settled"] = events.settled
    settler = Settler(
        consumer=consumer,
        publisher=publisher,
        topology=topology,
        metrics=metrics,
        settlement_log=settlement_log,
        utc_now=now,
        hold_limit_seconds=settings.hold_limit_seconds,
        **observer,
    )
    safe_taps = SafeQueueReaders(
        build_connections(settings), urls[0], topology, unverified=settings.dead_letters_unverified
    )
    auto_replayer = AutoReplayer(
        taps=safe_taps,
        shared=safe_taps.shared,
        publisher=publisher,
        queue=topology.queue,
        metrics=metrics,
        now=now,
        # On other transports what is looked at is in nobody's queue: a crash would lose all of it.
        returning=settings.dead_letters_return_unauthorized and is_amqp(urls[0]),
        per_second=settings.dead_letters_return_per_second,
        look_seconds=settings.dead_letters_look_seconds if is_amqp(urls[0]) else 0,
    )
    service = Service(
        consumer=consumer,
        publisher=publisher,
        handler=handler,
        settler=settler,
        admission=admission,
        health=health,
        metrics=metrics,
        settlement_log=settlement_log,
        tokens=tokens,
        close_registry=registry.aclose,
        drain_timeout_seconds=settings.drain_timeout_seconds,
        auto_replayer=auto_replayer,
        background=background,
        busy_from=max(1, settings.broker_prefetch // 2),
    )
    return Assembled(service, health, topology, admission)
