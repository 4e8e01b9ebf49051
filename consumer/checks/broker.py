"""Checks every broker address, every queue and every permission. Blocking; changes nothing.

With BROKER_DECLARE an existing queue is compared with what we would declare: a difference is no obstacle
(the queue is used as it is), but the finding says what it takes from our promises.
"""

import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

from consumer.app import build_topology
from consumer.broker import inspect
from consumer.broker.connection import ConnectionFactory, build_connections, is_amqp
from consumer.broker.virtual import inspect_virtual, transport_limits
from consumer.checks.finding import Finding, expiry, fail, ok, warn
from consumer.config import Settings
from consumer.core.topology import QueueSpec, Topology
from consumer.errors import BrokerError

_ERRORS: tuple[type[Exception], ...] = (BrokerError, *ConnectionFactory.ERRORS)
_NOT_KEPT = "what exceeds the delivery limit is not kept by the broker as a dead letter"
_NOT_SURELY = "the broker may lose what exceeds the delivery limit"
_LOST = {
    "x-queue-type": "it is no quorum queue: messages live on one node, and one that kills the process "
    "is delivered again without end",
    "x-delivery-limit": "a message that kills the process is delivered more or less often than configured",
    "x-dead-letter-exchange": _NOT_KEPT,
    "x-dead-letter-routing-key": _NOT_KEPT,
    "x-dead-letter-strategy": _NOT_SURELY,
    "x-overflow": _NOT_SURELY,
    "x-message-ttl": "messages expire at other times: journeys may be dropped or delivered again early",
    "x-max-length": "the queue is bounded: journeys may be dropped or refused",
    "durable": "the queue does not survive a restart of the broker",
    "auto_delete": "the queue disappears with its last consumer",
}


def check_broker(settings: Settings) -> Iterator[Finding]:
    """Every address; then queues and permissions at the first that can be used."""
    if not is_amqp(settings.broker_urls[0]):
        yield from _virtual(settings)
        return
    connections, connection, problems = build_connections(settings), None, []
    for shown in settings.broker_addresses:
        try:
            found = connections.connect("check")
        except ConnectionFactory.ERRORS as error:
            problems.append(f"{shown} cannot be used: {inspect.why(error)}")
            continue
        yield ok("broker", f"{shown} reachable, {inspect.server(found)}")
        yield from _certificate(found)
        if connection is None:
            connection = found
        else:
            found.collect()
    yield from (fail("broker", p) if connection is None else warn("broker", p) for p in problems)
    if connection is not None:
        try:
            yield from _queues(connection, settings)
            yield from _permissions(connection, build_topology(settings), settings)
        except _ERRORS as error:
            yield fail("broker", inspect.why(error))
        finally:
            connection.collect()


def _certificate(connection: Any) -> Iterator[Finding]:
    if isinstance(connection.sock, ssl.SSLSocket):
        certificate = connection.sock.getpeercert() or {}
        ending = expiry("broker", ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time())
        if ending is not None:
            yield ending


def _virtual(settings: Settings) -> Iterator[Finding]:
    url, shown, name = settings.broker_urls[0], settings.broker_addresses[0], settings.broker_queue
    try:
        facts = inspect_virtual(url, name)
    except BrokerError as error:
        yield fail("broker", f"{shown} cannot be used: {error}")
        return
    yield ok("broker", f"{shown} reachable")
    if facts.messages is None:
        yield ok("queues", f"the queue {name!r} does not exist yet and will be created")
    else:
        yield ok("queues", f"{name!r} holds {facts.messages} messages")
    hidden = facts.visibility_timeout_seconds
    if hidden is not None and hidden < settings.hold_limit_seconds:
        yield warn(
            "queues",
            f"the visibility timeout of {name!r} is {hidden} s: what is held longer "
            f"(HOLD_LIMIT_SECONDS: up to {settings.hold_limit_seconds:.0f} s) is delivered again",
        )
    yield warn("broker", transport_limits(url))


# --- queues -----------------------------------------------------------------------------


def _queues(connection: Any, settings: Settings) -> Iterator[Finding]:
    topology = build_topology(settings)
    if topology.exchange is not None:
        missing = "its publisher declares it, we only bind to it"
        yield _exchange(connection, topology.exchange, "", fail, missing)
    if settings.events_exchange is not None:
        missing = "outcome events will not be delivered"
        yield _exchange(connection, settings.events_exchange, " for outcome events", warn, missing)
    facts = inspect.queue_facts(connection, topology.queue)
    if facts is None:
        yield _missing(f"the queue {topology.queue!r}", settings)
    else:
        counts = f"{facts.messages} messages and has {facts.consumers} consumers"
        yield ok("queues", f"{topology.queue!r} holds {counts}")
        yield from _differences(connection, topology.main, settings)
    yield from _support(connection, topology, settings)


def _exchange(
    connection: Any, name: str, purpose: str, missing: Callable[[str, str], Finding], consequence: str
) -> Finding:
    text = f"the exchange {name!r}{purpose}"
    if inspect.exchange_exists(connection, name):
        return ok("queues", f"{text} exists")
    return missing("queues", f"{text} does not exist: {consequence}")


def _support(connection: Any, topology: Topology, settings: Settings) -> Iterator[Finding]:
    exchange = topology.dead_letter_exchange
    missing = [] if inspect.exchange_exists(connection, exchange) else [f"the exchange {exchange!r}"]
    messages = {}
    specs = list(topology.support())
    for spec in specs:
        facts = inspect.queue_facts(connection, spec.name)
        if facts is None:
            missing.append(f"the queue {spec.name!r}")
            continue
        messages[spec.name] = facts.messages
        yield from _differences(connection, spec, settings)
    ours = f"our {len(specs) + 1} own queues and exchanges"
    if missing and not settings.broker_declare:
        yield from (_missing(name, settings) for name in missing)
    elif missing:
        yield ok("queues", f"{len(missing)} of {ours} will be declared")
    else:
        yield ok("queues", f"all {ours} exist")
    for reason in topology.dead_letter_reasons:
        if count := messages.get(topology.dead_letter_queue(reason), 0):
            yield warn("queues", f"{count} dead letters wait: {reason}")


def _missing(what: str, settings: Settings) -> Finding:
    if settings.broker_declare:
        return ok("queues", f"{what} does not exist yet and will be declared")
    return fail("queues", f"{what} does not exist, and BROKER_DECLARE is false")


def _differences(connection: Any, spec: QueueSpec, settings: Settings) -> Iterator[Finding]:
    """Compare an existing queue with ours, where declaring is permitted."""
    if not settings.broker_declare:
        return
    try:
        names = inspect.differences(connection, spec)
    except BrokerError:
        return  # ``_permissions`` reports it
    if names:
        lost = dict.fromkeys(_LOST.get(name, "it is used as it is") for name in names)
        yield warn(
            "queues",
            f"{spec.name!r} differs from our declaration ({', '.join(names)}): {'; '.join(lost)}",
        )


# --- permissions ------------------------------------------------------------------------


def _permissions(connection: Any, topology: Topology, settings: Settings) -> Iterator[Finding]:
    if not inspect.can_ask(connection):
        yield warn("permissions", "not checked: only RabbitMQ's permissions can be tested without a change")
        return
    lacking = []
    queue, exchange = topology.queue, topology.dead_letter_exchange
    if inspect.queue_facts(connection, queue) is not None and not inspect.may_consume(connection, queue):
        lacking.append(f"read from the queue {queue!r}")
    events = (settings.events_exchange,) if settings.events_exchange is not None else ()
    for name in ("", exchange, *events):
        exists = name == "" or inspect.exchange_exists(connection, name)
        if exists and not inspect.may_publish(connection, name):
            lacking.append(f"write to the exchange {name!r}{'' if name else ' (amq.default)'}")
    if settings.broker_declare:
        lacking += [
            f"configure the queue {spec.name!r}"
            for spec in (topology.main, *topology.support())
            if inspect.queue_facts(connection, spec.name) is None
            and not inspect.may_declare(connection, spec.name)
        ]
    yield from (fail("permissions", f"this user may not {what}") for what in lacking)
    if not lacking:
        yield ok("permissions", "this user may consume, publish" + (" and declare" * settings.broker_declare))
