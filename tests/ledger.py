"""What was published, and where each message is now: the invariant of every failure test.

    published = registered (at once or already) + dead-lettered by reason + still queued

1. Every message has a message id of its own; that of a valid journey is the journey's id, so that the
   Registry's state and the queues can be compared.
2. An unconfirmed publish is repeated until confirmed, as a careful operator does.
3. Uses AMQP and the sandbox directly; relies on nothing that the service reports.
"""

import contextlib
import hashlib
import random
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import amqp

from consumer.broker.declare import ensure
from consumer.core.outcome import Reason
from consumer.core.topology import DELIVERY_LIMIT, Topology
from consumer.publishing import samples
from consumer.sandbox import Sandbox
from tests.broker import Broker
from tests.waiting import wait_until

QUEUE = "journeys"
#: The queues of a service that runs with the tests' quick settings.
TOPOLOGY = Topology(QUEUE, delays_seconds=(1, 2))
_BATCH = 10


@dataclass(frozen=True, slots=True)
class Account:
    """Where every published message is: ids in the Registry, in each dead-letter queue, still in a queue."""

    registered: set[str]
    dead: dict[str, set[str]] = field(default_factory=dict)
    queued: set[str] = field(default_factory=set)


class Ledger:
    """Publishes journeys of one API version to one queue and remembers them."""

    def __init__(
        self, broker: Broker, topology: Topology = TOPOLOGY, version: samples.Version = "v2"
    ) -> None:
        self.broker = broker
        self.topology = topology
        self._version: samples.Version = version
        self._rng = random.Random()
        self._lock = threading.Lock()
        self.published: dict[str, bytes] = {}  # by message id; what was at least once confirmed
        self.republished = 0  # by ``load``, because the confirm did not come

    def declare(self) -> None:
        """Declare all queues, as an operator does with ``declare`` before the service runs."""
        with self.broker.connection() as connection:
            ensure(connection, self.topology, declare=True)

    # --- publishing ---------------------------------------------------------------------

    def journeys(self, count: int) -> list[tuple[str, bytes]]:
        """Make ``count`` valid journeys as (message id, body), not published yet."""
        made = [samples.journey(self._version, self._rng, datetime.now(UTC)) for _ in range(count)]
        return [(samples.journey_id(payload), samples.encode(payload)) for payload in made]

    def invalid(self, count: int) -> list[tuple[str, bytes]]:
        """Make ``count`` payloads that are refused before they are sent."""
        number = self._rng.getrandbits(32)
        return [
            (f"invalid-{number:x}-{each}", samples.invalid(self._version, self._rng, datetime.now(UTC)))
            for each in range(count)
        ]

    def publish(
        self,
        messages: int | Iterable[tuple[str, bytes]],
        *,
        exchange: str = "",
        routing_key: str | None = None,
    ) -> list[str]:
        """Publish these (or so many valid journeys), wait for every confirm; return the ids."""
        made = self.journeys(messages) if isinstance(messages, int) else list(messages)
        self._publish(made, exchange, self.topology.queue if routing_key is None else routing_key)
        with self._lock:
            self.published.update(made)
        return [message_id for message_id, _ in made]

    def note(self, message_id: str, body: bytes) -> None:
        """Remember a message that the test has published in a way of its own."""
        self.published[message_id] = body

    @contextlib.contextmanager
    def load(self, *, most: int = 2_000, share_invalid: float = 0.0) -> Iterator[None]:
        """Publish in small batches all the time until the body ends, through every broker failure.

        After the first ``most`` the rate is low, so that a fast machine is not overloaded and a
        test that waits for more still gets it.
        """
        stopping = threading.Event()
        errors: list[BaseException] = []

        def work() -> None:
            try:
                while not stopping.is_set():
                    bad = sum(self._rng.random() < share_invalid for _ in range(_BATCH))
                    batch = self.journeys(_BATCH - bad) + self.invalid(bad)
                    while True:
                        try:
                            self.publish(batch)
                        except (OSError, amqp.AMQPError):
                            self.republished += _BATCH
                            stopping.wait(0.1)  # again until confirmed: it may or may not have arrived
                        else:
                            break
                    stopping.wait(0.01 if len(self.published) < most else 0.1)
            except BaseException as error:  # noqa: BLE001 shown by the test's own thread
                errors.append(error)

        thread = threading.Thread(target=work, name="load", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join(60)
        assert not thread.is_alive(), "the last batch could not be published"
        assert not errors, repr(errors)

    def await_published(self, count: int, timeout: float = 30.0) -> None:
        """Wait until at least ``count`` are confirmed."""
        wait_until(lambda: len(self.published) >= count, timeout, lambda: f"{count} published")

    def _publish(self, messages: Sequence[tuple[str, bytes]], exchange: str, routing_key: str) -> None:
        with self.broker.channel() as channel:
            failed: list[str] = []
            confirmed: set[int] = set()

            def ack(tag: int, multiple: bool) -> None:  # noqa: FBT001 py-amqp's signature
                confirmed.update(range(1, tag + 1) if multiple else (tag,))

            channel.confirm_select()
            channel.events["basic_ack"].add(ack)
            channel.events["basic_nack"].add(lambda *_: failed.append("nacked"))
            channel.events["basic_return"].add(lambda *_: failed.append("returned"))
            for message_id, body in messages:
                message = amqp.Message(
                    body, message_id=message_id, delivery_mode=2, content_type="application/json"
                )
                channel.basic_publish(message, exchange, routing_key, mandatory=True)
            while len(confirmed) < len(messages) and not failed:
                channel.connection.drain_events(timeout=10)
            if failed:
                raise ConnectionError(f"the broker did not take them: {failed[0]}")

    # --- the account --------------------------------------------------------------------

    @property
    def _waiting_queues(self) -> list[str]:
        topology = self.topology
        return [topology.queue, *(topology.delay_queue(each) for each in topology.delays_seconds)]

    def waiting(self) -> int:
        """How many messages are not settled, unacknowledged ones included."""
        depths = self.broker.queue_depths()
        return sum(depths[queue].total for queue in self._waiting_queues if queue in depths)

    def await_settled(self, timeout: float = 40.0) -> None:
        """Wait until every message has left our queue and the delay queues."""
        # Queues are counted one after the other: a message that moves between them can be missed once.
        wait_until(
            lambda: self.waiting() == 0 and self.waiting() == 0,
            timeout,
            lambda: f"everything is settled: {self.broker.queue_depths()}",
            interval=0.1,
        )

    def balance(self, sandbox: Sandbox, *, repeated: bool = False) -> Account:
        """Assert that each published message is in exactly one place, byte for byte, and nothing else is.

        ``repeated`` tolerates the same message more than once in one dead-letter queue or in the queue: what
        a crash between a confirm and an acknowledgement leaves. Queues must not be consumed meanwhile, or be
        empty; unacknowledged messages of closed connections are waited for.
        """
        places, changed = self.places(sandbox)
        wrong = {
            message_id: dict(found)
            for message_id, found in places.items()
            if message_id not in self.published
            or len(found) != 1
            or (found.total() != 1 and not (repeated and "registered" not in found))
        }
        lost = sorted(self.published.keys() - places.keys())
        assert not lost, f"{len(lost)} of {len(self.published)} journeys are nowhere: {lost[:10]}"
        assert not wrong, f"{len(wrong)} messages are not in exactly one place: {list(wrong.items())[:10]}"
        assert not changed, f"{len(changed)} bodies are not what was published: {changed[:10]}"
        account = Account(registered={key for key, found in places.items() if "registered" in found})
        for message_id, found in places.items():
            if "queued" in found:
                account.queued.add(message_id)
            elif "registered" not in found:
                account.dead.setdefault(next(iter(found)), set()).add(message_id)
        return account

    def places(self, sandbox: Sandbox) -> tuple[dict[str, Counter[str]], list[str]]:
        """Where each message id is and how often: ``registered``, ``queued`` or a reason.

        And the ids whose body is not what was published, there or at the Registry: bodies are never
        serialised again.
        """
        queues = dict.fromkeys(self._waiting_queues, "queued")
        queues |= {self.topology.dead_letter_queue(each): each for each in (*Reason, DELIVERY_LIMIT)}
        wait_until(
            lambda: not any(depth.unacked for depth in self.broker.queue_depths().values()),
            15,
            lambda: f"nothing is unacknowledged: {self.broker.queue_depths()}",
            interval=0.1,
        )
        places: dict[str, Counter[str]] = {}
        changed: list[str] = []
        for journey_id, stored in dict(sandbox.journeys).items():
            places.setdefault(journey_id, Counter())["registered"] += 1
            if stored.sha256 != hashlib.sha256(self.published.get(journey_id, b"")).hexdigest():
                changed.append(journey_id)
        existing = self.broker.queue_depths()
        for queue, place in queues.items():
            for message in self.broker.messages(queue) if queue in existing else ():
                message_id = str(message.properties.get("message_id", f"no id, in {queue}"))
                places.setdefault(message_id, Counter())[place] += 1
                if message.body != self.published.get(message_id, message.body):
                    changed.append(message_id)
        return places, changed
