"""How a command publishes: a broker that answers, lines to read, confirmed messages, and the progress.

The service's publisher waits for its broker without limit; a command reports what is wrong. Memory is
bounded by the longest line, and in flight by messages and bytes. Reading a pipe or a terminal does not block
the event loop, so that confirms are counted and signals handled meanwhile. Progress goes to standard error,
the result to standard output.
"""

import asyncio
import os
import random
import re
import sys
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from consumer.broker.causes import why
from consumer.broker.connection import ConnectionFactory, build_connections, is_amqp
from consumer.broker.inspect import exchange_exists, queue_facts
from consumer.broker.publisher import AmqpPublisher
from consumer.broker.virtual import VirtualLink
from consumer.config import Settings
from consumer.core.clock import utc_now
from consumer.core.outgoing import PERSISTENT, Outgoing
from consumer.core.topology import Topology
from consumer.errors import BrokerError, ConfigurationError, ConsumerError, PublishError, PublishFailure
from consumer.metrics import Metrics
from consumer.publishing import samples

CONNECT_SECONDS = 10.0
LONGEST_LINE_BYTES = 32 * 1024 * 1024
MOST_IN_FLIGHT = 1_000
MOST_BYTES_IN_FLIGHT = 16 * 1024 * 1024
_READ_BYTES = 256 * 1024

#: The payload's id, found without parsing: a line may be anything, also no JSON.
_IDS = tuple(
    re.compile(rb'"%s"\s*:\s*"([\x21\x23-\x5b\x5d-\x7e]{1,255})"' % name)
    for name in (b"journey_id", b"operator_journey_id")
)
_FAILURES = {
    PublishFailure.RETURNED: "no queue receives what is published there",
    PublishFailure.NACKED: "the broker refused it: the queue may be full",
    PublishFailure.TIMEOUT: "the broker did not confirm it in time",
    PublishFailure.CONNECTION: "the connection to the broker was lost",
}
_PLAIN_INTERVAL_SECONDS = 5.0
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Target:
    """Where to publish to; the default exchange is empty."""

    exchange: str
    routing_key: str

    def __str__(self) -> str:
        if not self.exchange:
            return f"the queue {self.routing_key!r}"
        return f"the exchange {self.exchange!r} with routing key {self.routing_key!r}"

    def require(self, connection: Any, broker: str) -> None:
        if self.exchange:
            found = exchange_exists(connection, self.exchange)
        else:
            found = queue_facts(connection, self.routing_key) is not None
        if not found:
            raise BrokerError(f"{self} does not exist on {broker}")


async def connect(settings: Settings, target: Target) -> AmqpPublisher | VirtualLink:
    """Start a publisher whose ``target`` exists; the caller closes it. Declares nothing on AMQP.

    Raises BrokerError, or ConfigurationError for what a transport cannot do.
    """
    url = settings.broker_urls[0]
    if is_amqp(url):
        reachable, _ = await asyncio.to_thread(at_first_broker, settings, "publish", target.require)
        publisher = AmqpPublisher(
            connections=build_connections(settings, *reachable),
            topology=None,
            declare=False,
            metrics=Metrics(CollectorRegistry()),
            confirm_timeout_seconds=settings.broker_confirm_timeout_seconds,
        )
        publisher.start()
        return publisher
    if target.exchange:
        raise ConfigurationError(["--exchange works with AMQP only"])
    if url.startswith("memory:"):
        raise ConfigurationError(["memory:// ends with this process: no other process can read its queues"])
    try:
        return await connect_virtual(url, Topology(queue=target.routing_key, dead_letter_reasons=()))
    except TimeoutError:
        raise BrokerError(f"{settings.broker_addresses[0]} cannot be reached") from None


async def connect_virtual(url: str, topology: Topology) -> VirtualLink:
    """Start a publisher on a transport without AMQP; ``topology`` is declared. Raises TimeoutError."""
    link = VirtualLink(url=url, topology=topology, prefetch=1, metrics=Metrics(CollectorRegistry()))
    link.start()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            while not link.connected:  # noqa: ASYNC110 - the link has no event for it
                await asyncio.sleep(0.01)
    except BaseException:
        await link.close()
        raise
    return link


def at_first_broker(
    settings: Settings, purpose: str, work: Callable[[Any, str], _Result]
) -> tuple[tuple[str, ...], _Result]:
    """Do ``work`` with a connection to the first broker that answers, and its address to show.

    Returns the addresses with that broker in front, and the result. Blocking. Raises BrokerError when none
    answers. One that fails during the work has not answered: just started, it may not find its queues.
    """
    urls, problems = settings.broker_urls, []
    for index, (url, shown) in enumerate(zip(urls, settings.broker_addresses, strict=True)):
        try:
            connection = build_connections(settings, url).connect(purpose)
            try:
                return (*urls[index:], *urls[:index]), work(connection, shown)
            finally:
                connection.collect()
        except ConnectionFactory.ERRORS as error:
            problems.append(f"{shown}: {why(error)}")
    raise BrokerError(f"no broker can be reached ({'; '.join(problems)})")


async def read_lines(descriptor: int) -> AsyncIterator[bytes]:
    """Yield each line without its newline. Raises ConsumerError when reading fails or a line is too long."""
    number, rest = 1, b""
    while piece := await _read(descriptor):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line
        number += len(lines)
        if len(rest) > LONGEST_LINE_BYTES:
            raise ConsumerError(f"line {number} is longer than {LONGEST_LINE_BYTES >> 20} MiB")
    if rest:
        yield rest


async def _read(descriptor: int) -> bytes:
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(descriptor, readable.set)
    except PermissionError:  # epoll takes no regular files: they are always readable
        readable.set()
    try:
        await readable.wait()
        return os.read(descriptor, _READ_BYTES)
    except OSError as error:
        raise ConsumerError(f"reading failed: {error.strerror}") from error
    finally:
        loop.remove_reader(descriptor)


async def generated_lines(version: samples.Version, count: int) -> AsyncIterator[bytes]:
    rng = random.SystemRandom()
    for _ in range(count):
        yield samples.encode(samples.journey(version, rng, utc_now()))


class Sender:
    """Publishes lines, many in flight, and stops at the first that is not confirmed.

    ``confirmed_bytes`` is the size of the ``confirmed_lines`` in the file, newlines included.
    """

    def __init__(self, publisher: AmqpPublisher | VirtualLink, target: Target) -> None:
        self.confirmed_lines = self.confirmed_bytes = 0
        self._publisher = publisher
        self._target = target
        self._in_flight: deque[tuple[int, int, asyncio.Future[None]]] = deque()
        self._bytes = 0

    async def send(self, line: bytes, number: int) -> None:
        """Publish the line of that number; waits while too much is in flight. Raises ConsumerError."""
        while len(self._in_flight) >= MOST_IN_FLIGHT or self._bytes > MOST_BYTES_IN_FLIGHT:
            await self._confirm_oldest()
        message = outgoing(self._target, line, message_id(line))
        self._in_flight.append((number, len(line), self._publisher.submit(message)))
        self._bytes += len(line)
        while self._in_flight and self._in_flight[0][2].done():  # keeps the count current on slow input
            await self._confirm_oldest()

    async def finish(self) -> None:
        while self._in_flight:
            await self._confirm_oldest()

    async def _confirm_oldest(self) -> None:
        number, size, future = self._in_flight.popleft()
        self._bytes -= size
        try:
            await future
        except PublishError as error:
            reason = _FAILURES.get(error.kind, error.kind.value)
            raise ConsumerError(
                f"line {number} did not reach {self._target}: {reason}; "
                "every line before it did, some lines after it may have"
            ) from None
        self.confirmed_lines += 1
        self.confirmed_bytes += size + 1


def outgoing(target: Target, body: bytes, message_id: str) -> Outgoing:
    """A persistent message with a JSON body."""
    properties = {"delivery_mode": PERSISTENT, "content_type": "application/json", "message_id": message_id}
    return Outgoing(target.exchange, target.routing_key, body, {}, properties)


def message_id(line: bytes) -> str:
    """The journey's id when the line has one, else a new id."""
    for pattern in _IDS:
        if found := pattern.search(line):
            return found[1].decode("ascii")
    return str(uuid.uuid4())


async def show_progress(
    sender: Sender, blocked: Callable[[], bool], *, total_bytes: int | None, total_lines: int | None
) -> None:
    """Show how far ``sender`` is until cancelled: a bar on a terminal, a line now and then elsewhere."""
    console = Console(stderr=True)
    is_live = console.is_terminal and not console.is_dumb_terminal
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[lines]:,} confirmed [cyan]{task.fields[rate]:,.0f}/s"),
    )
    started = printed_at = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not is_live) as bar:
        task = bar.add_task("publishing", total=total_lines or total_bytes, lines=0, rate=0)
        while True:
            await asyncio.sleep(0.1)
            now, lines, alarm = time.monotonic(), sender.confirmed_lines, blocked()
            bar.update(
                task,
                completed=lines if total_lines else sender.confirmed_bytes,
                lines=lines,
                rate=lines / (now - started),
                description="[yellow]blocked by the broker (alarm)" if alarm else "publishing",
            )
            if not is_live and now - printed_at >= _PLAIN_INTERVAL_SECONDS:
                printed_at = now
                state = ", blocked by the broker (memory or disk alarm)" if alarm else ""
                print(f"{lines} confirmed{state}", file=sys.stderr)  # noqa: T201
