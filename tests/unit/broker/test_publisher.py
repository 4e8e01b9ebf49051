"""What the publisher decides without a broker: waking its thread, the size of properties, its futures."""

import asyncio
import select
import struct
import threading
from typing import Any, cast

import pytest
from amqp.exceptions import FrameSyntaxError
from prometheus_client import CollectorRegistry

from consumer.broker.connection import ConnectionFactory
from consumer.broker.publisher import AmqpPublisher, BoundedMessage, ThreadEndedError, Wakeup
from consumer.core.outgoing import Outgoing
from consumer.errors import PublishError, PublishFailure
from consumer.metrics import Metrics
from tests.waiting import await_until

OUTGOING = Outgoing("", "q", b"", {}, {})


def readable(wakeup: Wakeup) -> bool:
    return bool(select.select([wakeup.fileno()], [], [], 0)[0])


def test_a_wakeup_stays_until_it_is_cleared() -> None:
    """Also when it was set often."""
    wakeup = Wakeup()
    assert not readable(wakeup)
    for _ in range(100_000):
        wakeup.set()
    assert readable(wakeup)
    wakeup.clear()
    assert not readable(wakeup)
    wakeup.clear()
    wakeup.close()


def test_a_wakeup_ends_a_wait() -> None:
    wakeup, woken = Wakeup(), threading.Event()

    def wait() -> None:
        wakeup.wait(30)
        woken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    wakeup.set()
    assert woken.wait(10)
    thread.join()
    assert not readable(wakeup)
    wakeup.wait(0.0)
    wakeup.close()


@pytest.mark.parametrize(
    ("headers", "fits"),
    [
        ({"a": 1, "b": "text"}, True),
        ({"a": "x" * 10_000}, True),
        ({"a": "x" * 17_000}, False),
        ({"a": ["x" * 17_000]}, False),
        ({"a": ["x"]}, True),
    ],
)
def test_properties_must_fit_into_one_frame(headers: dict[str, Any], *, fits: bool) -> None:
    message = BoundedMessage(Outgoing("", "q", b"", headers, {}), 16_384)
    if fits:
        assert message._serialize_properties()
    else:
        with pytest.raises(FrameSyntaxError):
            message._serialize_properties()


@pytest.fixture
def publisher() -> AmqpPublisher:
    """Its thread is not started: what is submitted stays in line."""
    return AmqpPublisher(
        connections=ConnectionFactory(["amqp://127.0.0.1:1"]),
        topology=None,
        declare=False,
        metrics=Metrics(CollectorRegistry()),
    )


async def test_a_withdrawn_publish_ends_at_once(publisher: AmqpPublisher) -> None:
    """Once: withdrawing again, or after the confirm, changes nothing."""
    publisher._loop = asyncio.get_running_loop()
    future = publisher.submit(OUTGOING)
    publisher.withdraw(future)
    publisher.withdraw(future)
    assert isinstance(error := future.exception(), PublishError)
    assert error.kind is PublishFailure.OUT_OF_DATE
    confirmed = publisher.submit(OUTGOING)
    confirmed.set_result(None)
    publisher.withdraw(confirmed)
    assert confirmed.exception() is None
    await publisher.close()


async def test_closing_fails_what_was_never_sent(publisher: AmqpPublisher) -> None:
    """Also while no broker can be reached; later submissions fail at once."""
    publisher.start()
    waiting = publisher.submit(OUTGOING)
    assert not publisher.ready
    await publisher.close()
    for future, kind in (
        (waiting, PublishFailure.CONNECTION),
        (publisher.submit(OUTGOING), PublishFailure.CLOSED),
    ):
        with pytest.raises(PublishError) as caught:
            await asyncio.wait_for(future, 5)
        assert caught.value.kind is kind
        assert str(caught.value) == kind.value


class Broken:
    """Raises the next of these at each ``connect``; then the last for ever."""

    def __init__(self, *errors: BaseException) -> None:
        self._errors = list(errors)
        self.calls = 0

    def connect(self, _purpose: str) -> Any:
        self.calls += 1
        raise self._errors[min(self.calls, len(self._errors)) - 1]


def broken(*errors: BaseException) -> tuple[AmqpPublisher, Broken, Metrics]:
    connections, metrics = Broken(*errors), Metrics(CollectorRegistry())
    publisher = AmqpPublisher(
        connections=cast("ConnectionFactory", connections), topology=None, declare=False, metrics=metrics
    )
    return publisher, connections, metrics


async def test_no_exception_ends_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged once, counted, and tried again."""
    errors = [error("secret") for error in (KeyError, struct.error, IndexError, AttributeError, MemoryError)]
    publisher, connections, metrics = broken(*errors, OSError("the last"))
    publisher.start()
    await await_until(lambda: connections.calls > len(errors), 30, "it has tried again after each")
    assert publisher._thread.is_alive()
    assert metrics.reconnects["publish"]._value.get() == len(errors)
    await publisher.close()
    reasons = [record.__dict__["reason"] for record in caplog.records if record.message == "cannot publish"]
    assert {"KeyError", "error", "MemoryError"} <= set(reasons)
    assert "secret" not in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_thread_that_ended_is_reported() -> None:
    publisher, _, _ = broken(SystemExit())
    publisher.start()
    with pytest.raises(ThreadEndedError, match="publish"):
        await asyncio.wait_for(publisher.watch(), 10)
    await publisher.close()


async def test_a_thread_that_was_closed_is_not_reported(publisher: AmqpPublisher) -> None:
    publisher.start()
    watching = asyncio.create_task(publisher.watch())
    await publisher.close()
    await asyncio.sleep(0)
    assert not watching.done()
    watching.cancel()
