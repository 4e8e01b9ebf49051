import io
import json
import logging
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.logs import LOGGER, Format, Output, SettlementLog, configure, exception_fields

PHONE = "+33612345678"
log = logging.getLogger("journey_consumer.test")


class Captured(io.StringIO):
    """A stream whose lines are read as JSON objects."""

    @property
    def lines(self) -> list[str]:
        return self.getvalue().splitlines()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


@contextmanager
def logging_to(output: Output, *, level: str = "INFO", log_format: Format = "json") -> Iterator[None]:
    """Configure logging, and restore what was configured before."""
    root, ours = logging.getLogger(), logging.getLogger(LOGGER)
    handlers, levels = root.handlers[:], (root.level, ours.level)
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    configure(output, level=level, log_format=log_format)
    try:
        yield
    finally:
        logging.captureWarnings(capture=False)
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        ours.setLevel(levels[1])
        sys.excepthook, threading.excepthook, sys.unraisablehook = hooks


@pytest.fixture
def stream() -> Captured:
    """Return what was written."""
    return Captured()


@pytest.fixture
def configured(stream: Captured) -> Iterator[Output]:
    """Configure JSON logging at DEBUG for one test."""
    output = Output(stream)
    with logging_to(output, level="DEBUG"):
        yield output


@pytest.fixture
def configured_text(stream: Captured) -> Iterator[Output]:
    """Configure text logging at INFO for one test."""
    output = Output(stream)
    with logging_to(output, log_format="text"):
        yield output


def raise_with_phone() -> None:
    """Raise an exception with a payload in its message and its variables."""
    phone = PHONE
    try:
        int(phone + "x")
    except ValueError as error:
        raise LookupError(f"no user {phone}") from error


# --- Our own records ---------------------------------------------------------------------


@pytest.mark.usefixtures("configured")
def test_an_event_is_one_json_object_with_its_fields(stream: Captured) -> None:
    """Time in UTC, level, logger, event and the fields given as `extra`."""
    log.info("connected", extra={"address": "amqp://h:1/v", "generation": 3, "names": ("a", "b")})
    (event,) = stream.events
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event.pop("ts"))
    assert event == {
        "level": "INFO",
        "logger": "journey_consumer.test",
        "event": "connected",
        "address": "amqp://h:1/v",
        "generation": 3,
        "names": ["a", "b"],
    }


@pytest.mark.usefixtures("configured_text")
def test_the_text_format_is_one_line_for_people(stream: Captured) -> None:
    """Bare words stay bare, everything else is quoted."""
    log.info(
        "connected again", extra={"address": "amqp://h:1/v", "note": 'a "b"', "nothing": None, "on": True}
    )
    log.debug("not at this level")
    (line,) = stream.lines
    assert line[24:] == ' INFO    connected again address=amqp://h:1/v note="a \\"b\\"" nothing=- on=true'


@pytest.mark.usefixtures("configured")
def test_only_plain_values_are_printed_of_fields(stream: Captured) -> None:
    """An object's text may hold anything: of a model, an exception or bytes only the class is printed."""
    log.info(
        "x", extra={"a": ValueError(PHONE), "b": PHONE.encode(), "c": {"d": [object()]}, "e": float("nan")}
    )
    log.info("x", extra={"path": Path("/a/b"), "long": "y" * 5000, "ts": "forged", "level": "forged"})
    first, second = stream.events
    assert (first["a"], first["b"], first["c"], first["e"]) == (
        "ValueError",
        "bytes",
        {"d": ["object"]},
        "nan",
    )
    assert (second["path"], len(second["long"])) == ("/a/b", 1024)
    assert second["level"] == "INFO"
    assert "forged" not in stream.getvalue()


@pytest.mark.parametrize("log_format", ["json", "text"])
@given(text=st.text())
def test_no_value_can_forge_a_line(log_format: Format, text: str) -> None:
    """Line breaks and control characters are escaped wherever a foreign text can come in."""
    stream = Captured()
    with logging_to(Output(stream), log_format=log_format):
        log.info(text.replace("%", ""), extra={"field": text})
    SettlementLog(Output(stream), log_format=log_format).settled(**settled(journey_id=text, detail=text))
    assert len(stream.lines) == stream.getvalue().count("\n") == 2
    assert stream.getvalue().replace("\n", "").isascii()
    assert stream.getvalue().replace("\n", "").isprintable()


# --- What must not be printed ------------------------------------------------------------


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_an_exception_is_printed_without_its_text(log_format: Format, stream: Captured) -> None:
    """Class, places and causes lead to the line; the message may quote a payload."""
    with logging_to(Output(stream), log_format=log_format):
        try:
            raise_with_phone()
        except LookupError:
            log.exception("failed")
    assert PHONE not in stream.getvalue()
    assert "LookupError" in stream.getvalue()
    assert "ValueError" in stream.getvalue()
    assert "unit/test_logs.py:" in stream.getvalue()
    assert "raise_with_phone" in stream.getvalue()
    assert len(stream.lines) == 1


def test_groups_and_circles_of_exceptions_are_printed() -> None:
    """Every class in a group is named once; a circle of causes ends."""
    first, second = KeyError(PHONE), OSError(PHONE)
    first.__cause__, second.__cause__ = second, first
    fields = exception_fields(BaseExceptionGroup(PHONE, [first, second]))
    assert fields == {"exception": "ExceptionGroup", "trace": [], "causes": ["KeyError", "OSError"]}


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize(
    "name", ["amqp", "kombu.mixins", "httpx", "asyncio", "consumer.registry.client", "journey_consumerx"]
)
def test_the_texts_of_other_loggers_are_withheld(name: str, stream: Captured) -> None:
    """Libraries log bodies and values; level, name and place are enough to find the line."""
    other = logging.getLogger(name)
    other.setLevel(logging.DEBUG)
    try:
        raise_with_phone()
    except LookupError:
        other.warning("cannot decode %r", PHONE, exc_info=True, extra={"body": PHONE})
    other.info(PHONE)
    (event,) = stream.events
    assert PHONE not in stream.getvalue()
    assert event["library"] == name
    assert event["level"] == "WARNING"
    assert event["exception"] == "LookupError"
    assert event["at"].startswith("unit/test_logs.py:")


@pytest.mark.usefixtures("configured")
def test_uncaught_exceptions_are_logged_without_their_message(
    stream: Captured, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python would print message and source lines to the error stream."""
    thread = threading.Thread(target=raise_with_phone)
    thread.start()
    thread.join()
    try:
        raise_with_phone()
    except LookupError as error:
        sys.excepthook(type(error), error, error.__traceback__)

    class Careless:
        def __del__(self) -> None:
            raise_with_phone()

    Careless()
    assert [event["exception"] for event in stream.events] == ["LookupError"] * 3
    assert PHONE not in stream.getvalue() + "".join(capsys.readouterr())


@pytest.mark.usefixtures("configured")
def test_warnings_are_printed_without_their_text(
    stream: Captured, capsys: pytest.CaptureFixture[str]
) -> None:
    """A warning of pydantic quotes the value that it is about."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn(f"unexpected value {PHONE}", UserWarning, stacklevel=1)
    assert stream.events[0]["library"] == "py.warnings"
    assert PHONE not in stream.getvalue() + "".join(capsys.readouterr())


@pytest.mark.usefixtures("configured")
def test_a_record_that_cannot_be_printed_is_reported_without_its_text(
    stream: Captured, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python's own handler would print message and arguments to the error stream."""
    ours = logging.getLogger().handlers[0]  # alone: pytest's own handler would raise
    ours.handle(logging.LogRecord(log.name, logging.INFO, __file__, 1, "%d journeys", (PHONE,), None))
    assert stream.events == [{"event": "unprintable log record", "exception": "TypeError"}]
    assert PHONE not in "".join(capsys.readouterr())


# --- Settled deliveries ------------------------------------------------------------------


def settled(**changed: Any) -> dict[str, Any]:
    """Return the arguments of a settled delivery."""
    return {
        "outcome": "registered",
        "journey_id": "j-1",
        "message_id": "m-1",
        "attempts": 1,
        "status": 201,
        "detail": None,
        "age_seconds": 12.3456,
        "redelivered": False,
    } | changed


def test_a_settled_delivery_is_one_line_of_ids_and_reasons(stream: Captured) -> None:
    """The line has the outcome and the ids, and nothing of the payload."""
    records = SettlementLog(Output(stream), clock=lambda: 1_795_449_600.25)
    records.settled(**settled())
    assert stream.events == [
        {
            "ts": "2026-11-23T16:00:00.250Z",
            "level": "INFO",
            "logger": "journey_consumer.settled",
            "event": "settled",
            "outcome": "registered",
            "journey_id": "j-1",
            "message_id": "m-1",
            "attempts": 1,
            "status": 201,
            "detail": None,
            "age_seconds": 12.346,
            "redelivered": False,
        }
    ]


def test_what_is_not_known_is_null(stream: Captured) -> None:
    """An undecodable message has no journey id; the line keeps its shape."""
    records = SettlementLog(Output(stream))
    records.settled(
        **settled(
            outcome="invalid",
            journey_id=None,
            message_id=None,
            status=None,
            age_seconds=None,
            detail="x at y",
        )
    )
    (event,) = stream.events
    assert event["level"] == "WARNING"
    assert [event[k] for k in ("journey_id", "message_id", "status", "age_seconds")] == [None] * 4
    assert event["detail"] == "x at y"


def test_the_text_form_of_a_settled_delivery(stream: Captured) -> None:
    """The same facts for people."""
    records = SettlementLog(Output(stream), log_format="text", clock=lambda: 1_795_449_600.0)
    records.settled(**settled(outcome="rejected", journey_id="a b", status=None, age_seconds=None))
    assert stream.getvalue() == (
        "2026-11-23T16:00:00.000Z WARNING settled outcome=rejected "
        'journey_id="a b" message_id=m-1 attempts=1 status=- detail=- age_seconds=- redelivered=false\n'
    )


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_ids_are_cut(log_format: Format, stream: Captured) -> None:
    """An id is an operator's data: it is bounded, whatever it holds."""
    records = SettlementLog(Output(stream), log_format=log_format)
    records.settled(**settled(journey_id="x" * 129, message_id="y" * 128))
    assert "x" * 128 in stream.getvalue()
    assert "x" * 129 not in stream.getvalue()
    assert "y" * 128 + "\\u2026" not in stream.getvalue()


@pytest.mark.parametrize(
    ("level", "outcomes"),
    [
        ("DEBUG", ["registered", "delayed", "expired"]),
        ("INFO", ["registered", "delayed", "expired"]),
        ("WARNING", ["expired"]),
        ("ERROR", []),
    ],
)
def test_the_level_counts_for_settled_deliveries_too(
    level: str, outcomes: list[str], stream: Captured
) -> None:
    """At WARNING only dead letters are logged."""
    records = SettlementLog(Output(stream), level=level)
    for outcome in ("registered", "delayed", "expired"):
        records.settled(**settled(outcome=outcome))
    records.flush()
    assert [event["outcome"] for event in stream.events] == outcomes


# --- Buffering ---------------------------------------------------------------------------


def test_lines_are_buffered_only_while_many_come(stream: Captured) -> None:
    """One line is written at once; of many only the last quarter of a second waits."""
    now = 100.0
    records = SettlementLog(Output(stream), clock=lambda: now)
    records.settled(**settled())
    assert len(stream.lines) == 1
    for _ in range(255):
        records.settled(**settled())
    assert len(stream.lines) == 1
    records.settled(**settled())
    assert len(stream.lines) == 257
    records.settled(**settled())
    now = 100.3
    records.settled(**settled())
    assert len(stream.lines) == 259
    records.settled(**settled())
    now = 50.0  # the clock was set back
    records.settled(**settled())
    assert len(stream.lines) == 261


def test_other_lines_and_exit_do_not_overtake_buffered_ones(stream: Captured, configured: Output) -> None:
    """The order of the log is the order of events, and an orderly exit loses no line."""
    records = SettlementLog(configured, clock=lambda: 100.0)
    records.settled(**settled(journey_id="1"))
    records.settled(**settled(journey_id="2"))
    log.info("then")
    records.settled(**settled(journey_id="3"))
    for handler in logging.getLogger().handlers:
        handler.flush()  # what logging.shutdown does at exit
    assert [event.get("journey_id", event["event"]) for event in stream.events] == ["1", "2", "then", "3"]


def test_an_unwritable_log_is_counted_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, stream: Captured
) -> None:
    """A full disk or a closed pipe must not keep journeys from being settled."""
    output = Output(stream)
    records = SettlementLog(output)

    def full(_: str) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(stream, "write", full)
        records.settled(**settled())
    assert output.lost_lines == 1
    output.add("x\n")
    output.flush()
    assert stream.getvalue() == "x\n"


def test_lines_from_many_threads_are_whole_and_complete(stream: Captured) -> None:
    """The publisher's and the probe server's threads log too."""
    output = Output(stream)

    def write(number: int) -> None:
        for i in range(500):
            output.add(f"{number} {i}\n")
            output.flush()

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(stream.lines) == sorted(f"{n} {i}" for n in range(4) for i in range(500))
