"""The page of queues says what is declared and what is written: names, arguments, headers, reasons."""

import re
from datetime import UTC, datetime

from consumer.broker.connection import UNREADABLE_PROPERTIES
from consumer.config import Settings
from consumer.core import headers as tracking_headers
from consumer.core import outgoing as messages
from consumer.core.delivery import Delivery
from consumer.core.outcome import DeadLetter, Delay, Reason
from consumer.core.topology import DELIVERY_LIMIT, STREAM, Topology, losses, refusal
from consumer.deadletters.record import BROKER_DETAILS
from tests import pages

PAGE = pages.ROOT / "docs" / "queues.md"
TEXT = " ".join(PAGE.read_text("utf-8").split())
NOW = datetime(2026, 11, 23, 16, tzinfo=UTC)
DEFAULT = {name: field.default for name, field in Settings.model_fields.items()}
TOPOLOGY = Topology(
    DEFAULT["broker_queue"],
    delays_seconds=DEFAULT["retry_delays_seconds"],
    delivery_limit=DEFAULT["broker_delivery_limit"],
)


def generic(name: str) -> str:
    """Write a queue's name as the tables do."""
    name = re.sub(r"(\.dead-letter\.).+", r"\1<reason>", name)
    return re.sub(r"(\.retry\.)\d+s", r"\1<n>s", name)


def test_names() -> None:
    """The table of names is the topology's."""
    declared = {generic(spec.name) for spec in (TOPOLOGY.main, *TOPOLOGY.support())}
    rows = pages.table(PAGE, "name")
    assert {row["name"].strip("`") for row in rows} == declared | {TOPOLOGY.dead_letter_exchange}
    (delays,) = (row["what it is"] for row in rows if ".retry." in row["name"])
    own = [f"retry.{seconds}s" for seconds in TOPOLOGY.delays_seconds]
    assert [name for name in pages.code(delays) if name.startswith("retry.")] == own


def test_arguments() -> None:
    """Every argument of every queue, with its value, is in the table."""
    declared = {}
    for spec in (TOPOLOGY.main, *TOPOLOGY.support()):
        told = {name: str(value) or '""' for name, value in spec.arguments.items()}
        seconds = re.search(r"retry\.(\d+)s$", spec.name)
        if seconds:
            assert spec.arguments["x-message-ttl"] == int(seconds[1]) * 1000
            told["x-message-ttl"] = "<n> * 1000"
        assert declared.setdefault(generic(spec.name), told) == told
    rows = pages.table(PAGE, "queue")
    assert {
        row["queue"].strip("`"): dict(text.split(": ", 1) for text in pages.code(row["arguments"]))
        for row in rows
    } == declared


def test_reasons() -> None:
    """Each reason has a row that says what to do, and nothing else has."""
    rows = pages.table(PAGE, "reason")
    assert [row["reason"].strip("`") for row in rows] == list(TOPOLOGY.dead_letter_reasons)
    assert all(row["what it means"] and row["what to do"] for row in rows)


def test_details_of_what_the_broker_moved() -> None:
    """Each has a row, in the section that the reason's own row leads to."""
    rows = pages.table(PAGE, "detail")
    assert {row["detail"].strip("`") for row in rows} == set(BROKER_DETAILS.values())
    (row,) = (row for row in pages.table(PAGE, "reason") if row["reason"] == f"`{DELIVERY_LIMIT}`")
    assert "(#moved-by-the-broker)" in row["what it means"]


def test_queues_that_are_refused_or_warned_of() -> None:
    """What the table says of a property or an argument is what the service does; none is left out."""
    told = {name: row for row in pages.table(PAGE, "your queue") for name in pages.code(row["your queue"])}
    values = {"x-queue-type: stream": ("x-queue-type", STREAM), "x-queue-type": ("x-queue-type", "classic")}
    for text, row in told.items():
        name, value = values.get(text, (text, 5))
        refused = refusal({name: value}) is not None
        assert row["is"] == ("refused" if refused else "warned of")
        assert refused or losses(TOPOLOGY.main, {name: value}) != ["it is used as it is"]
    assert set(TOPOLOGY.main.arguments) <= set(told)


def dead_letter() -> dict[str, object]:
    """Return the headers of a dead letter that came without any."""
    delivery = Delivery(b"{}")
    return tracking_headers.dead_letter_headers(
        delivery,
        tracking_headers.tracking_headers(delivery),
        DeadLetter(Reason.REJECTED, "400", 400),
        NOW,
        "1",
        attempts=0,
    )


def test_headers_of_a_dead_letter() -> None:
    """What we add to a message that came without headers is the table, with its types."""
    rows = pages.table(PAGE, "header")
    types = {"text": str, "number": int}
    assert {row["header"].strip("`"): types[row["type"]] for row in rows} == {
        name: type(value) for name, value in dead_letter().items()
    }


def test_headers_on_the_way() -> None:
    """Every header that we ever write is named on the page."""
    delivery = Delivery(b"{}")
    past = tracking_headers.tracking_headers(delivery)
    written = {
        *dead_letter(),
        *tracking_headers.delay_headers(delivery, past, Delay(60, "503", 503), 1, NOW),
        *tracking_headers.republish_headers(delivery, past, 1, NOW),
        *tracking_headers.replay_headers(delivery, past),
        *UNREADABLE_PROPERTIES,
    }
    assert written <= set(pages.code(pages.prose(PAGE)))


def test_what_is_moved_and_what_is_dropped() -> None:
    """Whatever does not stay as it came is named, with the place where it is kept."""
    moved = dict(re.findall(r"`(\w+)` as `(x-original-[\w-]+)`", TEXT))
    assert moved == messages._MOVED_PROPERTIES | messages._MOVED_HEADERS
    dropped = re.search(r"broker itself counts is dropped: ((?:`[\w-]+`,? ?)+)", TEXT)
    assert dropped is not None
    assert set(pages.code(dropped[1])) == messages._DROPPED_HEADERS


def test_settings_that_the_page_quotes() -> None:
    """The limit of the main queue is the setting's default."""
    assert f"`x-delivery-limit: {DEFAULT['broker_delivery_limit']}`" in TEXT
