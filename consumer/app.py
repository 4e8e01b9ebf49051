"""Builds every object and connects them. Decides nothing itself.

Settings come in, a ``Service`` comes out. ``run``, the demo and the tests all call ``assemble``, so that what
is tested is what runs; the broker link, the HTTP transport and the clocks are arguments. Must be called on
the event loop that will run the service.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from consumer.broker.connection import build_connections, is_amqp
from consumer.broker.consumer import AmqpConsumer
from consumer.broker.publisher import AmqpPublisher
from consumer.broker.virtual import VirtualLink
from consumer.config import Settings
from consumer.core.breaker import Breaker, BreakerPolicy
from consumer.core.clock import utc_now
from consumer.core.outcome import PauseCause
from consumer.core.policy import Policy
from consumer.core.protocols import Consumer, Publisher
from consumer.core.rate_limiter import RateLimiter
from consumer.core.topology import Topology
from consumer.deadletters.queues import SafeQueueReaders
from consumer.logs import Output, SettlementLog
from consumer.metrics import Metrics
from consumer.registry.client import RegistryClient, Transport
from consumer.registry.key_exchange import ExchangedToken
from consumer.registry.secret import read_secret
from consumer.registry.submit import Submission
from consumer.registry.tls import Tls
from consumer.registry.tokens import FileToken, StaticToken, TokenSource
from consumer.service.admission import Admission
from consumer.service.auto_replay import AutoReplayer
from consumer.service.handler import Handler
from consumer.service.health import Health
from consumer.service.inflight import InFlight
from consumer.service.lifecycle import Service
from consumer.service.outcome_events import OutcomeEvents
from consumer.service.settlement import Settler

if TYPE_CHECKING:
    from consumer.core.mapping import EventMapping

#: An outage is believed when ``BREAKER_THRESHOLD`` different journeys failed and none passed for so long, or
#: two for much longer. A round of probes asks with several journeys: any of them may be a bad one.
SETTLE_SECONDS, FEW_SECONDS = 1.0, 300.0
PROBES_PER_ROUND, MOST_PROBES_PER_ROUND = 8, 64
#: Requests that may leave at once after a quiet moment; small, so that the pace stays smooth.
RATE_LIMITER_BURST = 16


@dataclass(frozen=True, slots=True)
class BrokerLink:
    """The two sides of a broker, which may be one object."""

    consumer: Consumer
    publisher: Publisher


@dataclass(frozen=True, slots=True)
class Assembled:
    """The service with the parts that its surroundings look at."""

    service: Service
    health: Health
    topology: Topology
    admission: Admission
    in_flight: InFlight
    handler: Handler
    settler: Settler


def build_topology(settings: Settings) -> Topology:
    """Return the queues that these settings name."""
    return Topology(
        queue=settings.broker_queue,
        exchange=settings.broker_exchange,
        routing_key=settings.broker_routing_key or "",
        delays_seconds=settings.retry_delays_seconds,
        delivery_limit=settings.broker_delivery_limit,
    )


def payload_version(settings: Settings) -> Literal["v2", "v3"]:
    """Return whose rules payloads are validated by."""
    return cast("Literal['v2', 'v3']", settings.registry_api_version[:2])


def build_mapping(settings: Settings) -> "EventMapping | None":
    """Return how payloads are made of the operator's events; None: they come as payloads."""
    if settings.event_mapping_file is None:
        return None
    from consumer.core.mapping import load  # noqa: PLC0415 - its libraries, only for those who use one

    return load(settings.event_mapping_file, payload_version(settings))


def build_policy(settings: Settings) -> Policy:
    """Return the rules of retrying."""
    return Policy(
        max_attempts=settings.retry_max_attempts,
        attempts_per_delivery=settings.retry_attempts_per_visit,
        backoff_base_seconds=settings.retry_backoff_base_seconds,
        backoff_cap_seconds=settings.retry_backoff_cap_seconds,
        delays_seconds=settings.retry_delays_seconds,
        early_bound_seconds=settings.early_bound_seconds,
    )


def build_breakers(settings: Settings) -> dict[PauseCause, Breaker]:
    """Return one breaker for each cause of a pause."""
    auth = BreakerPolicy(
        settings.auth_pause_after,
        settings.auth_probe_seconds,
        max(settings.auth_probe_seconds, settings.breaker_probe_cap_seconds),
    )
    health = BreakerPolicy(
        max(2, settings.breaker_threshold),
        settings.breaker_probe_seconds,
        settings.breaker_probe_cap_seconds,
        settle_seconds=SETTLE_SECONDS,
        few_seconds=FEW_SECONDS,
        probes_per_round=PROBES_PER_ROUND,
        most_probes_per_round=MOST_PROBES_PER_ROUND,
    )
    # A 403 can be about single journeys: another operator's id.
    forbidden = replace(auth, probes_per_round=PROBES_PER_ROUND, most_probes_per_round=MOST_PROBES_PER_ROUND)
    return {
        PauseCause.UNAUTHORIZED: Breaker(auth),
        PauseCause.FORBIDDEN: Breaker(forbidden),
        PauseCause.MISCONFIGURED: Breaker(health),
        PauseCause.UNAVAILABLE: Breaker(health),
    }


def build_registry_client(settings: Settings, transport: Transport | None = None) -> RegistryClient:
    """Return the HTTP client of the Registry; ``transport`` replaces the network."""
    return RegistryClient(
        url=settings.registry_url,
        api_version=settings.registry_api_version,
        timeout_seconds=settings.registry_timeout_seconds,
        concurrency=settings.registry_concurrency,
        connection_seconds=settings.registry_connection_seconds,
        tls=build_tls(settings) if transport is None else None,
        proxy=settings.registry_proxy_url.get_secret_value() if settings.registry_proxy_url else None,
        transport=transport,
    )


def build_tls(settings: Settings) -> Tls:
    """Return the TLS settings of connections to the Registry."""
    return Tls(
        ca_file=settings.registry_ca_file,
        cert_file=settings.registry_client_cert_file,
        key_file=settings.registry_client_key_file,
    )


def build_status_limiter(settings: Settings) -> RateLimiter | None:
    """Return what paces the status route: 2,000 a minute are a tenth of what journeys have. None for v2."""
    if settings.registry_api_version == "v2":
        return None
    return RateLimiter(settings.registry_rate_per_minute / 10, RATE_LIMITER_BURST)


def build_token_source(settings: Settings, registry: RegistryClient) -> TokenSource:
    """Return the one way of authenticating that is configured (``config.load`` checks that it is one)."""
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
    """Read again at every exchange: a mounted Secret is rotated under the running process."""
    if value is not None:
        return value.get_secret_value()
    return read_secret(file) if file is not None else ""


def build_link(settings: Settings, topology: Topology, metrics: Metrics) -> BrokerLink:
    """Return both sides of the broker that these settings name; nothing connects yet."""
    if not is_amqp(settings.broker_urls[0]):
        link = VirtualLink(
            url=settings.broker_urls[0], topology=topology, prefetch=settings.broker_prefetch, metrics=metrics
        )
        return BrokerLink(link, link)
    consumer = AmqpConsumer(
        connections=build_connections(settings),
        topology=topology,
        prefetch=settings.broker_prefetch,
        declare=settings.broker_declare,
        metrics=metrics,
        prefetch_bytes=settings.broker_prefetch_bytes,
    )
    publisher = AmqpPublisher(
        connections=build_connections(settings),
        topology=topology,
        declare=settings.broker_declare,
        metrics=metrics,
        confirm_timeout_seconds=settings.broker_confirm_timeout_seconds,
    )
    return BrokerLink(consumer, publisher)


def _events_publisher(settings: Settings) -> AmqpPublisher | None:
    """Return a publisher with a connection and metrics of its own, so that its failures affect no journey."""
    if not settings.events_exchange or not is_amqp(settings.broker_urls[0]):
        return None
    return AmqpPublisher(
        connections=build_connections(settings),
        topology=None,
        declare=False,
        metrics=Metrics(CollectorRegistry()),
        purpose="outcome events",
    )


def assemble(
    settings: Settings,
    metrics: Metrics,
    output: Output,
    *,
    link: BrokerLink | None = None,
    transport: Transport | None = None,
    tokens: TokenSource | None = None,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], datetime] = utc_now,
) -> Assembled:
    """Make the service that ``settings`` describe. ``clock`` is monotonic seconds, ``now`` aware.

    ``link``, ``transport`` and ``tokens`` take the place of what the settings name.
    """
    topology, policy = build_topology(settings), build_policy(settings)
    client = build_registry_client(settings, transport)
    tokens = tokens or build_token_source(settings, client)
    link = link or build_link(settings, topology, metrics)
    rate_limiter = RateLimiter(settings.registry_rate_per_minute, RATE_LIMITER_BURST)
    settlement_log = SettlementLog(
        output,
        log_format=settings.log_format,
        level=settings.log_level,
        journeys=settings.log_journeys,
        clock=lambda: now().timestamp(),
    )
    health = Health(clock=clock)
    in_flight = InFlight(payload_version(settings), build_mapping(settings))
    admission = Admission(
        breakers=build_breakers(settings),
        rate_limiter=rate_limiter,
        metrics=metrics,
        clock=clock,
        first_seconds=settings.registry_timeout_seconds,
    )
    submission = Submission(
        client=client,
        tokens=tokens,
        rate_limiter=rate_limiter,
        status_limiter=build_status_limiter(settings),
        clock=clock,
        now=now,
        on_answer=metrics.request,
        on_rate_limit=lambda limit: metrics.rate_limit_remaining.set(limit.remaining),
    )
    handler = Handler(
        submission=submission,
        admission=admission,
        policy=policy,
        metrics=metrics,
        consumer=link.consumer,
        concurrency=settings.registry_concurrency,
        hold_limit_seconds=settings.hold_limit_seconds,
        clock=clock,
        now=now,
    )
    events_publisher = _events_publisher(settings)
    events = None
    if events_publisher is not None and settings.events_exchange:
        events = OutcomeEvents(
            events_publisher,
            exchange=settings.events_exchange,
            queue=topology.queue,
            metrics=metrics,
            now=now,
        )
    settler = Settler(
        consumer=link.consumer,
        publisher=link.publisher,
        topology=topology,
        metrics=metrics,
        settlement_log=settlement_log,
        clock=clock,
        now=now,
        hold_limit_seconds=settings.hold_limit_seconds,
        prefetch=settings.broker_prefetch,
        events=events,
    )
    # On other transports what is read is in no queue: a crash would lose all of it.
    amqp = is_amqp(settings.broker_urls[0])
    readers = SafeQueueReaders(
        lambda: build_connections(settings),
        settings.broker_urls[0],
        topology,
        unverified=settings.dead_letters_unverified,
    )
    auto_replayer = AutoReplayer(
        readers=readers,
        shared=readers.shared,
        publisher=link.publisher,
        queue=topology.queue,
        metrics=metrics,
        now=now,
        returning=settings.dead_letters_return_unauthorized and amqp,
        per_second=settings.dead_letters_return_per_second,
        look_seconds=settings.dead_letters_look_seconds if amqp else 0,
    )
    service = Service(
        consumer=link.consumer,
        publisher=link.publisher,
        in_flight=in_flight,
        handler=handler,
        settler=settler,
        admission=admission,
        health=health,
        metrics=metrics,
        output=output,
        tokens=tokens,
        auto_replayer=auto_replayer,
        close_registry=client.aclose,
        drain_timeout_seconds=settings.drain_timeout_seconds,
        clock=clock,
        now=now,
        prefetch=settings.broker_prefetch,
        background=[] if events_publisher is None else [events_publisher],
    )
    return Assembled(service, health, topology, admission, in_flight, handler, settler)
