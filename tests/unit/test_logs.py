import io
import json
import logging
import re
import subprocess
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

from consumer import logs
from consumer.logs import LOGGER, Format, Output, SettlementLog, configure, exception_fields
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
PHONE = "+33612345678"
log = logging.getLogger("journey_consumer.test")


class Captured(io.BytesIO):
    """A stream whose lines are read as JSON objects, when ``output`` has written them."""

    def __init__(self) -> None:
        super().__init__()
        self.output = Output(self)

    @property
    def text(self) -> str:
        assert self.output.flush()
        return self.getvalue().decode()

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

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
    output = stream.output
    with logging_to(output, level="DEBUG"):
        yield output


@pytest.fixture
def configured_text(stream: Captured) -> Iterator[Output]:
    """Configure text logging at INFO for one test."""
    output = stream.output
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
    assert "forged" not in stream.text


@pytest.mark.parametrize("log_format", ["json", "text"])
@given(text=st.text())
def test_no_value_can_forge_a_line(log_format: Format, text: str) -> None:
    """Line breaks and control characters are escaped wherever a foreign text can come in."""
    stream = Captured()
    with logging_to(stream.output, log_format=log_format):
        log.info(text.replace("%", ""), extra={"field": text})
    SettlementLog(stream.output, log_format=log_format).settled(**settled(journey_id=text, detail=text))
    assert len(stream.lines) == stream.text.count("\n") == 2
    assert stream.text.replace("\n", "").isascii()
    assert stream.text.replace("\n", "").isprintable()


# --- What must not be printed ------------------------------------------------------------


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_an_exception_is_printed_without_its_text(log_format: Format, stream: Captured) -> None:
    """Class, places and causes lead to the line; the message may quote a payload."""
    with logging_to(stream.output, log_format=log_format):
        try:
            raise_with_phone()
        except LookupError:
            log.exception("failed")
    assert PHONE not in stream.text
    assert "LookupError" in stream.text
    assert "ValueError" in stream.text
    assert "unit/test_logs.py:" in stream.text
    assert "raise_with_phone" in stream.text
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
    assert PHONE not in stream.text
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
    assert PHONE not in stream.text + "".join(capsys.readouterr())


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
    assert PHONE not in stream.text + "".join(capsys.readouterr())


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
    records = SettlementLog(stream.output, clock=lambda: 1_795_449_600.25)
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
    records = SettlementLog(stream.output)
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
    records = SettlementLog(stream.output, log_format="text", clock=lambda: 1_795_449_600.0)
    records.settled(**settled(outcome="rejected", journey_id="a b", status=None, age_seconds=None))
    assert stream.text == (
        "2026-11-23T16:00:00.000Z WARNING settled outcome=rejected "
        'journey_id="a b" message_id=m-1 attempts=1 status=- detail=- age_seconds=- redelivered=false\n'
    )


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_ids_are_cut(log_format: Format, stream: Captured) -> None:
    """An id is an operator's data: it is bounded, whatever it holds."""
    records = SettlementLog(stream.output, log_format=log_format)
    records.settled(**settled(journey_id="x" * 129, message_id="y" * 128))
    assert "x" * 128 in stream.text
    assert "x" * 129 not in stream.text
    assert "y" * 128 + "\\u2026" not in stream.text


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
    records = SettlementLog(stream.output, level=level)
    for outcome in ("registered", "delayed", "expired"):
        records.settled(**settled(outcome=outcome))
    assert [event["outcome"] for event in stream.events] == outcomes


@pytest.mark.parametrize(
    ("journeys", "outcomes"),
    [
        ("all", ["registered", "already_registered", "delayed", "expired"]),
        ("failures", ["delayed", "expired"]),
        ("none", []),
    ],
)
def test_which_journeys_have_a_line_can_be_chosen(
    journeys: Any, outcomes: list[str], stream: Captured
) -> None:
    """All, those that were not registered, none."""
    records = SettlementLog(stream.output, journeys=journeys)
    for outcome in ("registered", "already_registered", "delayed", "expired"):
        records.settled(**settled(outcome=outcome))
    assert [event["outcome"] for event in stream.events] == outcomes


# --- Writing -----------------------------------------------------------------------------


class Stuck(Captured):
    """A pipe whose reader does not read, until ``freed`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.freed, self.writes = threading.Event(), threading.Event(), 0

    def write(self, data: Any, /) -> int:
        self.writes += 1
        self.entered.set()
        self.freed.wait()
        return super().write(data)


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    """A stream on which nothing can be written yet; freed after the test."""
    stream = Stuck()
    yield stream
    stream.freed.set()
    assert stream.output.flush(10)


def test_a_single_line_is_written_at_once(stream: Captured) -> None:
    """Nobody has to flush, or to write a second line; also after the writer has had nothing to do."""
    for number in range(3):
        SettlementLog(stream.output).settled(**settled())
        wait_until(lambda: stream.getvalue().count(b"\n") == number + 1)  # noqa: B023 - called at once


def test_the_writer_ends_without_lines_and_starts_again(
    stream: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An output that is no longer used leaves no thread behind."""
    monkeypatch.setattr(logs, "IDLE_SECONDS", 0.0)
    monkeypatch.setattr(logs, "FLUSH_SECONDS", 0.0)
    for number in range(100):
        stream.output.add(f"{number}\n")
        if number % 10 == 0:
            wait_until(lambda: stream.output._thread is None)
    assert stream.lines == [str(number) for number in range(100)]


def test_many_lines_are_written_in_few_writes(stuck: Stuck) -> None:
    """Waking the writer for each line would cost the loop more than formatting it."""
    stuck.output.add("first\n")
    assert stuck.entered.wait(10)
    for number in range(1000):
        stuck.output.add(f"{number}\n")
    stuck.freed.set()
    assert stuck.lines == ["first", *map(str, range(1000))]
    assert stuck.writes == 2


def test_a_burst_is_written_before_too_much_waits(stream: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest between two writes ends early."""
    monkeypatch.setattr(logs, "FLUSH_SECONDS", 3600.0)
    stream.output.add("first\n")
    wait_until(lambda: stream.output._resting)
    for number in range(logs.MOST_LINES // 2):
        stream.output.add(f"{number}\n")
    assert stream.getvalue() == b"first\n"
    stream.output.add("last\n")
    wait_until(lambda: stream.getvalue().endswith(b"last\n"))


def test_a_stuck_reader_holds_nobody_up_and_costs_lines_beyond_the_bound(stuck: Stuck) -> None:
    """Lines are refused and counted while too many wait; those that wait are written when they can be."""
    stuck.output.add("first\n")
    assert stuck.entered.wait(10)
    for number in range(logs.MOST_LINES + 99):
        stuck.output.add(f"{number}\n")
    assert stuck.output.lost_lines == 100
    assert not stuck.output.flush(0.01)
    stuck.freed.set()
    assert len(stuck.lines) == logs.MOST_LINES
    stuck.output.add("last\n")
    assert stuck.lines[-1] == "last"
    assert stuck.output.lost_lines == 100


def test_what_waits_is_bounded_in_bytes(stuck: Stuck) -> None:
    """What is being written counts, too: the memory of a stuck log is that of the bound."""
    line = "x" * (1024 * 1024 - 1) + "\n"
    for _ in range(6):
        stuck.output.add(line)
    assert stuck.output.lost_lines == 2
    stuck.output.add("x" * logs.MOST_BYTES + "\n")
    assert stuck.output.lost_lines == 3


def test_without_a_thread_the_next_line_tries_again(
    stream: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the limit of threads logging raises nothing."""

    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        stream.output.add("1\n")
    stream.output.add("2\n")
    assert stream.lines == ["1", "2"]


def test_the_log_keeps_the_order_of_events(stream: Captured, configured: Output) -> None:
    """Settled deliveries and other events share one queue, and an orderly exit loses no line."""
    records = SettlementLog(configured, clock=lambda: 100.0)
    records.settled(**settled(journey_id="1"))
    records.settled(**settled(journey_id="2"))
    log.info("then")
    records.settled(**settled(journey_id="3"))
    for handler in logging.getLogger().handlers:
        handler.flush()  # what logging.shutdown does at exit
    written = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event.get("journey_id", event["event"]) for event in written] == ["1", "2", "then", "3"]


WRITES = st.lists(
    st.one_of(
        st.integers(1, 30),  # takes so many bytes
        st.sampled_from([None, OSError(28, "No space left on device"), ValueError("closed"), TypeError()]),
    ),
    max_size=20,
)


@given(writes=WRITES, lines=st.lists(st.text("ab", max_size=12), min_size=1, max_size=12))
def test_whatever_the_stream_does_lines_are_whole_and_in_order_or_counted(
    writes: list[int | Exception | None], lines: list[str]
) -> None:
    """Full disks, closed pipes, parts: what is not counted as lost was written, once, in its order."""
    written, todo = bytearray(), list(writes)

    class Odd:
        def write(self, data: memoryview, /) -> int | None:
            step = todo.pop(0) if todo else len(data)
            if isinstance(step, Exception):
                raise step
            if step is None:
                return None
            written.extend(data[:step])
            return min(step, len(data))

    output = Output(Odd())
    numbered = [f"{number}:{line}" for number, line in enumerate(lines)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "FLUSH_SECONDS", 0.0)
        for line in numbered:
            output.add(f"{line}\n")
        assert output.flush(10)
    whole = [line for line in bytes(written).decode().splitlines() if line in numbered]
    assert whole == sorted(whole, key=numbered.index)
    assert len(whole) + output.lost_lines == len(numbered)


def test_lines_from_many_threads_are_whole_complete_and_in_their_order(stream: Captured) -> None:
    """The publisher's and the probe server's threads log too."""

    def write(number: int) -> None:
        for i in range(500):
            stream.output.add(f"{number} {i}\n")

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(4):
        assert [line for line in stream.lines if line.startswith(f"{n} ")] == [f"{n} {i}" for i in range(500)]
    assert len(stream.lines) == 2000


# --- Writing to what a process has as its standard output ---------------------------------

WRITER = """
import io, logging, os, sys
from consumer import logs
output = logs.Output(io.FileIO(1, "w", closefd=False))
logs.configure(output, level="INFO", log_format="json")
log = logging.getLogger("journey_consumer.test")
for number in range(int(sys.argv[1])):
    log.info("line", extra={"number": number, "text": "x" * 500})
print(output.lost_lines, file=sys.stderr, flush=True)
if sys.argv[2] == "raise":
    raise KeyError("secret")
if sys.argv[2] == "exit at once":
    output.flush(1)
    os._exit(1)
"""


def _writer(count: int, end: str, stdout: Any) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(count), end], stdout=stdout, stderr=subprocess.PIPE, cwd=ROOT
    )


@pytest.mark.parametrize("end", ["return", "raise", "exit at once"])
def test_the_last_lines_arrive_however_the_process_ends(end: str) -> None:
    """Orderly, by an exception that nobody catches, by a second signal."""
    with _writer(3000, end, subprocess.PIPE) as process:
        out, err = process.communicate(timeout=60)
    assert (err, process.returncode) == (b"0\n", 0 if end == "return" else 1)
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["number"] for event in events if event["event"] == "line"] == list(range(3000))
    assert ("uncaught exception" in [event["event"] for event in events]) == (end == "raise")


@pytest.mark.parametrize("end", ["return", "raise", "exit at once"])
def test_a_pipe_that_nobody_reads_does_not_keep_the_process(end: str) -> None:
    """It ends by itself, with its own exit code, though what it wrote has nowhere to go."""
    with _writer(20_000, end, subprocess.PIPE) as process:
        assert process.wait(60) == (0 if end == "return" else 1)
        assert process.stderr is not None
        assert int(process.stderr.read()) > 10_000


def test_a_full_disk_is_counted() -> None:
    """Each line is lost, and the process goes on."""
    script = WRITER.replace("print(", "output.flush(10); print(")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", script, "100", "return"],
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, b"100\n")
