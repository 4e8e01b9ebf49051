"""What a message carries of its own past."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.delivery import Delivery
from consumer.core.headers import (
    TrackingHeaders,
    dead_letter_headers,
    delay_headers,
    republish_headers,
    tracking_headers,
)
from consumer.core.outcome import DeadLetter, Delay, Reason

NOW = datetime(2026, 11, 23, 17, 30, 1, 234567, tzinfo=timezone(timedelta(hours=1)))
NOW_TEXT = "2026-11-23T16:30:01.234Z"
EARLIER = "2026-11-23T12:00:00.000Z"
DEAD = DeadLetter(Reason.REJECTED, "-32602 at driver.identity.phone", 400)


def message(**headers: Any) -> Delivery:
    """Make a delivery; underscores in names stand for dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Delivery(b"{}", headers=named, exchange="journeys", routing_key="completed")


FRESH = TrackingHeaders(original_exchange="journeys", original_routing_key="completed")
PAST = TrackingHeaders(4, 2, EARLIER, "origin", "key", 1)


def test_a_message_without_past() -> None:
    """A message that was never here has itself as its origin, and no failures."""
    assert tracking_headers(message()) == FRESH


def test_a_message_with_a_past() -> None:
    """What we wrote is what we read."""
    headers = delay_headers(message(x_replays=1), PAST, Delay(60, "http_503", 503), 7, NOW)
    assert tracking_headers(
        Delivery(b"", headers=headers, exchange="", routing_key="queue")
    ) == TrackingHeaders(7, 3, EARLIER, "origin", "key", 1)


@pytest.mark.parametrize(
    "garbage",
    ["7", -1, 10_001, 2**70, True, 1.0, None, b"7", [1], {"a": 1}, "no date", "2026-11-23T12:00:00"],
)
@pytest.mark.parametrize("name", ["x_attempts", "x_visits", "x_replays", "x_first_failure"])
def test_an_operator_s_header_of_the_same_name(name: str, garbage: Any) -> None:
    """Another type, negative, absurd: as if it were not there."""
    assert tracking_headers(message(**{name: garbage})) == FRESH


@pytest.mark.parametrize("garbage", [7, None, b"x", "x" * 256, "é" * 128, ["x"]])
def test_names_that_amqp_would_refuse(garbage: Any) -> None:
    """An origin that is no short text is not believed."""
    assert tracking_headers(message(x_original_exchange=garbage, x_original_routing_key=garbage)) == FRESH


def test_the_default_exchange_is_an_origin_too() -> None:
    """An empty name is a name."""
    past = tracking_headers(message(x_original_exchange="", x_original_routing_key="queue"))
    assert (past.original_exchange, past.original_routing_key) == ("", "queue")


def test_dead_letter() -> None:
    """The operator's headers go along; ours say why, when and where from."""
    table = {"nested": [1, 2]}
    headers = dead_letter_headers(
        message(tenant=table, CC=["other"], x_delivery_count=3), PAST, DEAD, NOW, "1.2.3", attempts=6
    )
    assert headers == {
        "tenant": table,
        "CC": ["other"],
        "x-reason": "rejected",
        "x-detail": "-32602 at driver.identity.phone",
        "x-status": 400,
        "x-attempts": 6,
        "x-first-failure": EARLIER,
        "x-last-failure": NOW_TEXT,
        "x-original-exchange": "origin",
        "x-original-routing-key": "key",
        "x-consumer-version": "1.2.3",
    }
    assert type(headers["x-reason"]) is str  # an AMQP codec knows no enumerations


def test_dead_letter_without_status_or_past() -> None:
    """What was never sent has no status, also when it is a replayed dead letter that had one."""
    headers = dead_letter_headers(
        message(x_status=503), FRESH, DeadLetter(Reason.INVALID, "x" * 500, None), NOW, "1", attempts=0
    )
    assert "x-status" not in headers
    assert headers["x-detail"] == "x" * 200
    assert headers["x-attempts"] == 0
    assert headers["x-first-failure"] == headers["x-last-failure"] == NOW_TEXT


STEERING = {
    "CC": ["journeys.completed"],
    "BCC": ["other"],
    "x-death": [{"queue": "journeys.completed", "reason": "delivery_limit"}],
    "x-first-death-queue": "journeys.completed",
    "x-last-death-reason": "expired",
    "x-delivery-count": 2,
}


@pytest.mark.parametrize("way", ["delay", "return"])
def test_nothing_steers_the_broker_on_the_way_round(way: str) -> None:
    """Headers that copy a message elsewhere, or make the broker see a cycle, stay behind."""
    delivery = Delivery(b"", headers={**STEERING, "tenant": "t"})
    if way == "delay":
        headers = delay_headers(delivery, PAST, Delay(60, "read", None), 5, NOW)
    else:
        headers = republish_headers(delivery, PAST, 5, NOW)
    assert not STEERING.keys() & headers.keys()
    assert headers["tenant"] == "t"


def test_delay() -> None:
    """One more visit, the attempts so far, the first failure and the origin."""
    assert delay_headers(message(x_status=1), FRESH, Delay(60, "read", None), 3, NOW) == {
        "x-attempts": 3,
        "x-visits": 1,
        "x-detail": "read",
        "x-first-failure": NOW_TEXT,
        "x-original-exchange": "journeys",
        "x-original-routing-key": "completed",
    }
    assert delay_headers(message(), FRESH, Delay(60, "http_503", 503), 3, NOW)["x-status"] == 503


def test_waiting_is_no_failure() -> None:
    """A journey that only waits for its end has no first failure, whatever its headers said."""
    headers = delay_headers(message(x_first_failure="junk"), FRESH, Delay(60, "ends_in_future", None), 0, NOW)
    assert "x-first-failure" not in headers


def test_return() -> None:
    """The way back to our own queue costs no visit and forgets nothing."""
    assert republish_headers(message(x_visits=2, x_replays=1), PAST, 4, NOW) == {
        "x-attempts": 4,
        "x-visits": 2,
        "x-replays": 1,
        "x-first-failure": EARLIER,
        "x-original-exchange": "origin",
        "x-original-routing-key": "key",
    }


anything = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.lists(st.integers())
)
names = st.sampled_from(
    [
        "x-attempts",
        "x-visits",
        "x-first-failure",
        "x-original-exchange",
        "x-original-routing-key",
        "x-replays",
    ]
) | st.text(max_size=5)


@given(headers=st.dictionaries(names, anything, max_size=8), attempts=st.integers(0, 100))
def test_any_headers(headers: dict[str, Any], attempts: int) -> None:
    """Whatever an operator's headers hold: no exception, the original is unchanged, counts grow."""
    delivery = Delivery(b"", headers=dict(headers), exchange="e", routing_key="r")
    past = tracking_headers(delivery)
    added = delay_headers(delivery, past, Delay(60, "read", None), attempts, NOW)
    again = tracking_headers(Delivery(b"", headers=added))
    assert (again.attempts, again.delayed_retries) == (
        attempts,
        past.delayed_retries + 1 if past.delayed_retries < 10_000 else 0,
    )
    assert (again.original_exchange, again.original_routing_key) == (
        past.original_exchange,
        past.original_routing_key,
    )
    assert repr(delivery.headers) == repr(headers)
    dead = dead_letter_headers(delivery, past, DEAD, NOW.astimezone(UTC), "1", attempts=attempts)
    ours = {name: dead[name] for name in dead if name not in headers}
    assert all(type(value) in (str, int) for value in ours.values())
