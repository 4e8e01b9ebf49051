"""Checks every broker address, every queue and every permission. Blocking; changes nothing.

An existing queue is compared with what we would declare. A difference is no obstacle, unless the queue cannot
be consumed without loss: the finding says what it takes from our promises.
"""

import ssl
from collections.abc import Iterator
from typing import Any

from consumer.app import build_topology
from consumer.broker import inspect
from consumer.broker.causes import why
from consumer.broker.connection import ConnectionFactory, build_connections, is_amqp
from consumer.broker.virtual import inspect_virtual, transport_limits
from consumer.checks import Finding, expiry, fail, ok, warn
from consumer.config import Settings
from consumer.core.topology import losses, refusal
from consumer.errors import BrokerError

_ERRORS: tuple[type[Exception], ...] = (BrokerError, *ConnectionFactory.ERRORS)


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
            problems.append(f"{shown} cannot be used: {why(error)}")
            continue
        yield ok("broker", f"{shown} reachable, {inspect.server(found)}")
        if isinstance(found.sock, ssl.SSLSocket):
            yield from expiry("broker", found.sock.getpeercert() or {})
        if connection is None:
            connection = found
        else:
            found.collect()
    yield from (fail("broker", p) if connection is None else warn("broker", p) for p in problems)
    if connection is not None:
        try:
            inspection = _Inspection(connection, settings)
            yield from inspection.exchanges()
            yield from inspection.queues()
            yield from inspection.permissions()
        except _ERRORS as error:
            yield fail("broker", why(error))
        finally:
            connection.collect()


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
        longest = f"(HOLD_LIMIT_SECONDS: up to {settings.hold_limit_seconds:.0f} s) is delivered again"
        yield warn(
            "queues", f"the visibility timeout of {name!r} is {hidden} s: what is held longer {longest}"
        )
    yield warn("broker", transport_limits(url))


class _Inspection:
    """What exists of our queues and of the exchanges that we use. Raises what a broker edge raises."""

    def __init__(self, connection: Any, settings: Settings) -> None:
        self._connection, self._declare = connection, settings.broker_declare
        self._topology = topology = build_topology(settings)
        self._events = settings.events_exchange
        asked = {topology.dead_letter_exchange, topology.exchange, self._events} - {None, ""}
        self._exchanges = {name for name in asked if inspect.exchange_exists(connection, str(name))}
        self._specs = [topology.main, *topology.support()]
        self._queues = {spec.name: inspect.queue_facts(connection, spec.name) for spec in self._specs}

    def exchanges(self) -> Iterator[Finding]:
        for name, purpose, missing, consequence in (
            (self._topology.exchange, "", fail, "its publisher declares it, we only bind to it"),
            (self._events, " for outcome events", warn, "outcome events will not be delivered"),
        ):
            if name in self._exchanges:
                yield ok("queues", f"the exchange {name!r}{purpose} exists")
            elif name is not None:
                yield missing("queues", f"the exchange {name!r}{purpose} does not exist: {consequence}")

    def queues(self) -> Iterator[Finding]:
        name, exchange = self._topology.queue, self._topology.dead_letter_exchange
        if (main := self._queues[name]) is None:
            yield self._missing(f"the queue {name!r}")
        else:
            yield ok("queues", f"{name!r} holds {main.messages} messages and has {main.consumers} consumers")
        if inspect.can_ask(self._connection):
            yield from self._differences()
        missing = [] if exchange in self._exchanges else [f"the exchange {exchange!r}"]
        missing += [f"the queue {s.name!r}" for s in self._specs[1:] if self._queues[s.name] is None]
        ours = f"our {len(self._specs)} own queues and exchanges"
        if not missing:
            yield ok("queues", f"all {ours} exist")
        elif self._declare:
            yield ok("queues", f"{len(missing)} of {ours} will be declared")
        else:
            yield from map(self._missing, missing)
        for reason in self._topology.dead_letter_reasons:
            dead = self._queues[self._topology.dead_letter_queue(reason)]
            if dead is not None and dead.messages:
                yield warn("queues", f"{dead.messages} dead letters wait: {reason}")

    def _missing(self, what: str) -> Finding:
        if self._declare:
            return ok("queues", f"{what} does not exist yet and will be declared")
        return fail("queues", f"{what} does not exist, and BROKER_DECLARE is false")

    def _differences(self) -> Iterator[Finding]:
        """Compare the existing queues with ours, as far as this user may."""
        for spec in (each for each in self._specs if self._queues[each.name] is not None):
            found = inspect.known_differences(self._connection, spec)
            if found is None:
                yield ok("queues", "arguments are not compared: this user may not configure the queues")
                return
            if spec is self._specs[0] and (refused := refusal(found)) is not None:
                yield fail("queues", f"the queue {spec.name!r} {refused}")
            elif found:
                names = ", ".join(
                    f"{name}: {'none' if value is None else value}" for name, value in found.items()
                )
                lost = "; ".join(losses(spec, found))
                yield warn("queues", f"{spec.name!r} differs from our declaration ({names}): {lost}")

    def permissions(self) -> Iterator[Finding]:
        connection, queue = self._connection, self._topology.queue
        if not inspect.can_ask(connection):
            yield warn(
                "permissions", "not checked: only RabbitMQ's permissions can be tested without a change"
            )
            return
        lacking = []
        if self._queues[queue] is not None and not inspect.may_consume(connection, queue):
            lacking.append(f"read from the queue {queue!r}")
        lacking += [
            f"write to the exchange {name!r}{'' if name else ' (amq.default)'}"
            for name in ("", self._topology.dead_letter_exchange, self._events)
            if name is not None
            and name in {"", *self._exchanges}
            and not inspect.may_publish(connection, name)
        ]
        if self._declare:
            lacking += [
                f"configure the queue {name!r}"
                for name, facts in self._queues.items()
                if facts is None and not inspect.may_declare(connection, name)
            ]
        yield from (fail("permissions", f"this user may not {what}") for what in lacking)
        if not lacking:
            yield ok("permissions", "this user may consume, publish" + (" and declare" * self._declare))
