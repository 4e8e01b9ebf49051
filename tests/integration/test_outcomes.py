"""One test for each row of the table of outcomes: the real process, a real queue, a faithful Registry.

Each ends with the account: every journey published is in exactly one place, by the Registry's memory and by
the queues.
"""

import base64
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from consumer import __version__
from consumer.publishing import samples
from consumer.sandbox import JourneyStatus, Profile
from consumer.sandbox.faults import Throttle
from schemas import Refusal, Violation
from tests.broker import Broker, Seen
from tests.integration.conftest import Run
from tests.ledger import QUEUE, Ledger
from tests.local_registry import TOKEN, LocalRegistry
from tests.waiting import wait_until

PAUSE_AFTER = 4


def made(ledger: Ledger, **times: float) -> tuple[str, dict[str, Any]]:
    """Make a valid v2 journey; ``ended`` seconds ago (negative: in the future), after half an hour."""
    (message_id, body), *_ = ledger.journeys(1)
    payload: dict[str, Any] = json.loads(body)
    if times:
        end = datetime.now(UTC) - timedelta(seconds=times["ended"])
        for person in (payload["driver"], payload["passenger"]):
            person["end"]["datetime"] = end.isoformat()
            person["start"]["datetime"] = (end - timedelta(minutes=30)).isoformat()
    return message_id, payload


def dead(ledger: Ledger, reason: str) -> dict[str, Seen]:
    """Return the dead letters of ``reason`` by message id."""
    found = ledger.broker.messages(ledger.topology.dead_letter_queue(reason))
    return {str(letter.properties["message_id"]): letter for letter in found}


def paused(service: Any, cause: str) -> Callable[[], bool]:
    """Whether ``cause`` pauses consumption, as the metric says."""
    return lambda: service.value("paused", cause=cause) == 1


def attempts(service: Any) -> dict[str, int]:
    """Return the attempts of each settled journey, as logged."""
    return {line["journey_id"]: line["attempts"] for line in service.log_lines("settled")}


# --- Registered, already registered -------------------------------------------------------------


def test_registered_byte_for_byte(serve: Run, ledger: Ledger, vhost: Broker, sandbox: LocalRegistry) -> None:
    """White space, key order and escapes reach the Registry as they came; only `api_version` is cut out."""
    service = serve(vhost)
    expected = {}
    for number, style in enumerate([{"indent": 3}, {"separators": (" , ", " : ")}, {"ensure_ascii": True}]):
        message_id, payload = made(ledger)
        payload["driver"]["identity"]["firstname"] = "Zoé 🚗"
        body = json.dumps(payload, **style).encode()  # type: ignore[arg-type]
        sent = body.replace(b"{", b'{ "api_version" : "v9",', 1) if number == 1 else body
        ledger.publish([(message_id, sent)])
        ledger.note(message_id, body)
        expected[message_id] = hashlib.sha256(body).hexdigest()
    ledger.await_settled()
    assert {key: stored.sha256 for key, stored in sandbox.journeys.items()} == expected
    assert ledger.balance(sandbox).registered == expected.keys()
    assert service.value("journeys_total", outcome="registered") == 3
    assert service.value("journey_age_at_registration_seconds_count") == 3


def test_cloudevents_are_unwrapped(serve: Run, ledger: Ledger, vhost: Broker, sandbox: LocalRegistry) -> None:
    """Structured, in base64, not labelled, and binary: the data reaches the Registry byte for byte."""
    serve(vhost)
    event = {"specversion": "1.0", "id": "1", "source": "/trips", "type": "journey.completed"}
    kinds: list[tuple[Callable[[bytes], bytes], dict[str, Any]]] = [
        (
            lambda data: json.dumps(event).encode()[:-1] + b', "data" : ' + data + b" }",
            {"content_type": "application/cloudevents+json; charset=utf-8"},
        ),
        (
            lambda data: json.dumps(event | {"data_base64": base64.b64encode(data).decode()}).encode(),
            {"content_type": "application/cloudevents+json"},
        ),
        (lambda data: json.dumps(event).encode()[:-1] + b',"data":' + data + b"}", {}),
        (lambda data: data, {"headers": {f"cloudEvents:{key}": value for key, value in event.items()}}),
        (lambda data: data, {"headers": {f"ce-{key}": value for key, value in event.items()}}),
    ]
    expected = {}
    for wrap, more in kinds:
        message_id, payload = made(ledger)
        data = json.dumps(payload, indent=1).encode()
        vhost.publish(QUEUE, wrap(data), message_id=message_id, **more)
        ledger.note(message_id, data)
        expected[message_id] = hashlib.sha256(data).hexdigest()
    ledger.await_settled()
    assert {key: stored.sha256 for key, stored in sandbox.journeys.items()} == expected
    ledger.balance(sandbox)


def test_already_registered(serve: Run, ledger: Ledger, vhost: Broker, sandbox: LocalRegistry) -> None:
    """The same journeys again: 409 is a success, and counted as what it is."""
    service = serve(vhost)
    journeys = ledger.journeys(10)
    ledger.publish(journeys)
    ledger.await_settled()
    ledger.publish(journeys)
    ledger.await_settled()
    ledger.balance(sandbox)
    assert service.value("journeys_total", outcome="registered") == 10
    assert service.value("journeys_total", outcome="already_registered") == 10
    assert service.value("journey_age_at_registration_seconds_count") == 10
    assert {stored.times_seen for stored in sandbox.journeys.values()} == {2}


def test_the_answers_of_2023(serve: Run, ledger: Ledger, vhost: Broker) -> None:
    """A result nested in 200 is a registration; a processed journey answers 409."""
    with LocalRegistry(profile=Profile.Y2023) as registry:
        service = serve(vhost, registry_url=registry.url)
        journeys = ledger.journeys(4)
        ledger.publish(journeys)
        ledger.await_settled()
        for message_id, _ in journeys:
            registry.journeys[message_id].status = JourneyStatus.PROCESSED
        ledger.publish(journeys)
        ledger.await_settled()
        ledger.balance(registry)
        assert registry.requests_by_status == {200: 4, 409: 4}
        assert service.value("journeys_total", outcome="registered") == 4
        assert service.value("journeys_total", outcome="already_registered") == 4


# --- Invalid: never sent ------------------------------------------------------------------------

UNREADABLE: dict[str, tuple[bytes, dict[str, Any]]] = {
    "not_json": (b"{'journey_id': 1}", {}),
    "not_json at infinity": (b'{"journey_id": NaN', {}),
    "not_utf8": (b'{"journey_id": "\xff"}', {}),
    "wrong_type number": (b"12", {}),
    "wrong_type list": (b"[]", {}),
    "wrong_type text": (b'"journey"', {}),
    "nested_too_deep": (b'{"a":' * 3000 + b"1" + b"}" * 3000, {}),
    "too_complex": (b"[" * 1_000_000, {}),
    "too_large": (b'{"a": "' + b"x" * (2 * 1024 * 1024) + b'"}', {}),
    "compressed": (b"x\x9c\x03\x00", {"headers": {"compression": "application/x-gzip"}}),
    "compressed by encoding": (b"\x1f\x8b", {"content_encoding": "gzip"}),
    "empty": (b"", {}),
    "empty but for white space": (b" \n", {}),
    "missing": (b"{}", {}),
    "cloudevent_without_data": (
        b'{"specversion": "1.0"}',
        {"content_type": "application/cloudevents+json"},
    ),
    "cloudevents_batch": (b"[]", {"content_type": "application/cloudevents-batch+json"}),
    "cloudevent_bad_base64": (
        b'{"specversion": "1.0", "data_base64": "%"}',
        {"content_type": "application/cloudevents+json"},
    ),
}


def test_invalid(serve: Run, ledger: Ledger, vhost: Broker, sandbox: LocalRegistry) -> None:
    """Whatever cannot be a journey is dead-lettered with its reason, as it came, and never sent."""
    service = serve(vhost)
    for kind, (body, more) in UNREADABLE.items():
        vhost.publish(QUEUE, body, message_id=kind, **more)
        ledger.note(kind, body)
    message_id, payload = made(ledger)
    payload["driver"]["identity"]["phone"] = "+33 6 12"
    ledger.publish([(message_id, samples.encode(payload))])
    ledger.await_settled()
    letters = dead(ledger, "invalid")
    assert letters.keys() == {*UNREADABLE, message_id}
    for kind, (body, more) in UNREADABLE.items():
        letter = letters[kind]
        assert letter.body == body
        assert letter.headers["x-detail"].split(" ")[0] == kind.split(" ")[0]
        assert letter.properties["content_type"] == more.get("content_type", "application/json")
        assert letter.properties.get("content_encoding") == more.get("content_encoding")
        assert letter.headers.get("compression") == more.get("headers", {}).get("compression")
        assert letter.headers["x-attempts"] == 0
        assert "x-status" not in letter.headers
    assert letters[message_id].headers["x-detail"].endswith("at driver.identity.phone")
    assert not sandbox.requests
    ledger.balance(sandbox)
    assert service.value("dead_lettered_total", reason="invalid") == len(letters)


def test_a_dead_letter_is_the_message_and_why(
    serve: Run, ledger: Ledger, vhost: Broker, sandbox: LocalRegistry
) -> None:
    """Through the operator's exchange: body, properties and headers as they came, and exactly our own."""
    with vhost.channel() as channel:
        channel.exchange_declare("trips", "topic", durable=True, auto_delete=False)
    serve(vhost, broker_exchange="trips", broker_routing_key="trip.*")
    before = datetime.now(UTC)
    headers = {"x-trace": "abc", "tenant": 7, "nested": {"a": [1, None, True]}, "CC": ["nowhere"]}
    properties = {
        "message_id": "the-id",
        "correlation_id": "c",
        "reply_to": "r",
        "type": "journey.completed",
        "app_id": "app",
        "priority": 3,
        "timestamp": 1_700_000_000,
        "content_type": "application/vnd.operator+json",
    }
    body = b'\xef\xbb\xbf{"journey_id": 1}\n'
    vhost.publish(
        "trip.done",
        body,
        exchange="trips",
        headers=headers,
        expiration="3600000",
        user_id="guest",
        **properties,
    )
    ledger.note("the-id", body)
    wait_until(lambda: vhost.depth(ledger.topology.dead_letter_queue("invalid")).ready, 15, "dead-lettered")
    (letter,) = dead(ledger, "invalid").values()
    assert letter.body == body
    assert letter.properties == {**properties, "delivery_mode": 2}
    assert (letter.exchange, letter.routing_key) == ("journeys.dead-letter", "invalid")
    moments = [
        datetime.fromisoformat(letter.headers.pop(name)) for name in ("x-first-failure", "x-last-failure")
    ]
    assert before - timedelta(seconds=1) <= moments[0] <= moments[1] <= datetime.now(UTC)
    assert letter.headers.pop("x-detail").endswith(("at journey_id", "missing at driver", "operator_class"))
    assert letter.headers == {
        "x-trace": "abc",
        "tenant": 7,
        "nested": {"a": [1, None, True]},
        "x-original-cc": ["nowhere"],
        "x-original-expiration": "3600000",
        "x-original-user-id": "guest",
        "x-reason": "invalid",
        "x-attempts": 0,
        "x-original-exchange": "trips",
        "x-original-routing-key": "trip.done",
        "x-consumer-version": __version__,
    }
    ledger.balance(sandbox)


# --- Rejected: refused by the Registry ----------------------------------------------------------


def _refuse(*_: Any) -> Refusal:
    """Judge as a Registry whose rules have changed."""
    return Refusal((Violation("driver.revenue", "too_large", "must be <= 1000000"),))


@pytest.mark.parametrize(
    ("profile", "status", "code"), [(Profile.Y2025, 400, "-32602"), (Profile.Y2023, 500, "-32000")]
)
def test_rejected_by_the_validator(  # noqa: PLR0917 - fixtures and the columns of the table
    serve: Run, ledger: Ledger, vhost: Broker, profile: Profile, status: int, code: str
) -> None:
    """400, or the 500 of 2023 with a validator's text: no retry, the field and not the value."""
    with LocalRegistry(profile=profile, validate=_refuse) as registry:
        service = serve(vhost, registry_url=registry.url)
        ids = ledger.publish(12)
        ledger.await_settled()
        letters = dead(ledger, "rejected")
        assert letters.keys() == set(ids)
        for letter in letters.values():
            assert letter.headers["x-detail"] == f"{code} at driver.revenue"
            assert (letter.headers["x-status"], letter.headers["x-attempts"]) == (status, 1)
        assert registry.requests_by_status == {status: 12}
        ledger.balance(registry)
        assert service.value("paused", cause="unavailable") == 0


def test_rejected_by_other_statuses(
    serve: Run, ledger: Ledger, vhost: Broker, sandbox: LocalRegistry
) -> None:
    """The terms of use, and what a proxy answers instead of the Registry: only the first judges a journey."""
    serve(vhost, registry_concurrency="1")
    for status in (413, 422):
        sandbox.faults.for_next(1, error_rate=1, error_status=status)
        (journey_id,) = ledger.publish(1)
        ledger.await_settled()
        assert sandbox.journeys[journey_id].times_seen == 1, "tried again, and registered"
    sandbox.faults.for_next(1, terms_violation_labels=["too_close_trips"])
    ledger.publish(1)
    ledger.await_settled()
    told = {
        (letter.headers["x-status"], letter.headers["x-detail"])
        for letter in dead(ledger, "rejected").values()
    }
    assert told == {(422, "-32422 too_close_trips")}
    ledger.balance(sandbox)


# --- Unauthorized, forbidden --------------------------------------------------------------------


@pytest.fixture(params=["revoked", "malformed", "claimless"])
def bad_token(request: pytest.FixtureRequest) -> Iterator[tuple[LocalRegistry, str, str, int]]:
    """A Registry that does not take the token, the reason of the dead letters and their status."""
    match request.param:
        case "revoked":
            with LocalRegistry() as registry:
                registry.revoke(TOKEN)
                yield registry, "unauthorized", "401", 401
        case "malformed":
            with LocalRegistry(profile=Profile.Y2023, tokens=["another"]) as registry:
                yield registry, "unauthorized", "JsonWebTokenError", 500
        case _:
            with LocalRegistry(tokens=[], claimless=[TOKEN]) as registry:
                yield registry, "forbidden", "-32503|403", 403


def test_a_bad_token_pauses_and_a_new_one_resumes(
    serve: Run,
    ledger: Ledger,
    vhost: Broker,
    tmp_path: Path,
    bad_token: tuple[LocalRegistry, str, str, int],
) -> None:
    """One dead letter, then the backlog stays in the queue until the token file changes."""
    registry, reason, details, status = bad_token
    ids = ledger.publish(150)
    service = serve(
        vhost,
        registry_url=registry.url,
        auth_pause_after=str(PAUSE_AFTER),
        registry_concurrency="4",
        registry_timeout_seconds="1",
        hold_limit_seconds="4",
    )
    wait_until(paused(service, reason), 20, "consumption pauses")
    wait_until(lambda: vhost.depth(QUEUE).unacked <= 1, 20, "what was taken is given back", interval=0.1)
    letters = dead(ledger, reason)
    assert len(letters) == 1, "the first submission goes alone"
    assert {letter.headers["x-status"] for letter in letters.values()} == {status}
    assert {letter.headers["x-detail"] for letter in letters.values()} <= set(details.split("|"))
    asked = len(registry.requests)
    wait_until(lambda: len(registry.requests) >= asked + 3, 20, "it probes")
    assert service.ready, "a pause is not the process's fault"
    wait_until(lambda: ledger.waiting() == 150 - len(letters), 10, "a copy comes before its original goes")
    assert len(dead(ledger, reason)) == len(letters), "probes cost no journey"

    registry.accept("the-second-token")
    (tmp_path / "token").write_text("the-second-token")
    ledger.await_settled()
    account = ledger.balance(registry)
    assert account.dead == {reason: set(letters)}
    assert account.registered == set(ids) - letters.keys()
    assert not paused(service, reason)()


# --- Expired, early -----------------------------------------------------------------------------


def test_expired(serve: Run, ledger: Ledger, vhost: Broker) -> None:
    """The Registry has the last word about the 24 hours."""
    with LocalRegistry(terms="all") as registry:
        service = serve(vhost, registry_url=registry.url)
        message_id, payload = made(ledger, ended=24 * 3600)
        ledger.publish([(message_id, samples.encode(payload))])
        ledger.await_settled()
        (letter,) = dead(ledger, "expired").values()
        assert (letter.headers["x-status"], letter.headers["x-detail"]) == (422, "-32422 expired")
        ledger.balance(registry)
        assert service.value("deadline_missed_total") == 1


def test_early(serve: Run, ledger: Ledger, vhost: Broker, sandbox: LocalRegistry) -> None:
    """Held until its end has passed, then sent; beyond the bound it is invalid."""
    service = serve(vhost, early_bound_seconds="60")
    soon, payload = made(ledger, ended=-2.0)
    ends = payload["driver"]["end"]["datetime"]
    far, other = made(ledger, ended=-600.0)
    ledger.publish([(soon, samples.encode(payload)), (far, samples.encode(other))])
    ledger.await_settled()
    account = ledger.balance(sandbox)
    assert account.registered == {soon}
    assert account.dead == {"invalid": {far}}
    (letter,) = dead(ledger, "invalid").values()
    assert letter.headers["x-detail"].startswith("ends_in_future at ")
    (request,) = sandbox.requests
    assert request.time > datetime.fromisoformat(ends).timestamp()
    assert attempts(service)[soon] == 1


def test_early_by_the_registrys_clock(serve: Run, ledger: Ledger, vhost: Broker) -> None:
    """Its clock is a second behind: tried until it has caught up."""
    behind = timedelta(seconds=1)
    with LocalRegistry(clock=lambda: datetime.now(UTC) - behind) as registry:
        serve(vhost, registry_url=registry.url)
        message_id, payload = made(ledger, ended=0.3)
        ledger.publish([(message_id, samples.encode(payload))])
        ledger.await_settled()
        assert registry.requests_by_status.keys() == {422, 201}
        assert ledger.balance(registry).registered == {message_id}


# --- Throttled ----------------------------------------------------------------------------------


def test_throttled_with_headers(serve: Run, ledger: Ledger, vhost: Broker, sandbox: LocalRegistry) -> None:
    """Nothing is sent as long as the answer says; afterwards all are registered, at no cost."""
    service = serve(vhost)
    sandbox.faults.for_next(1, throttle={"retry_after_seconds": 2})
    ledger.publish(1)
    wait_until(lambda: 429 in sandbox.requests_by_status, 10, "throttled")
    ledger.publish(20)
    ledger.await_settled()
    ledger.balance(sandbox)
    first, *others = (request.time for request in sandbox.requests)
    assert min(others) - first >= 1.9
    assert set(attempts(service).values()) == {1}
    assert sandbox.requests_by_status == {429: 1, 201: 21}


def test_throttled_without_headers(serve: Run, ledger: Ledger, vhost: Broker, sandbox: LocalRegistry) -> None:
    """No answer says how long: a whole window is waited; SIGTERM meanwhile gives all back untouched."""
    service = serve(vhost)
    sandbox.faults.throttle = Throttle(with_headers=False)
    ledger.publish(20)
    wait_until(lambda: 429 in sandbox.requests_by_status, 10, "throttled")
    most = int(sandbox.requests_by_status[429])
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 1.5 or len(sandbox.requests) > 20, 5)
    assert len(sandbox.requests) <= max(most, 20), "each at most once"
    assert service.terminate() == 0
    account = ledger.balance(sandbox)
    assert len(account.queued) == 20


# --- Unavailable --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "stored", "status"),
    [
        ({"maintenance": True}, False, 503),
        ({"error_rate": 1, "error_status": 502}, False, 502),
        ({"error_rate": 1}, False, 500),
        ({"garbage": True}, False, 200),
        ({"timeout_408": True}, True, 408),
        ({"drop_connection": "before_read"}, False, 0),
        ({"drop_connection": "before_answer"}, True, 0),
        ({"latency_seconds": 3}, True, 201),
        ({"slow_drip_seconds": 0.2}, True, 201),
        ({"huge_answer_bytes": 1_000_000}, True, 201),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_unavailable_once(  # noqa: PLR0917 - fixtures and the columns of the table
    serve: Run,
    ledger: Ledger,
    vhost: Broker,
    sandbox: LocalRegistry,
    fault: dict[str, Any],
    stored: bool,  # noqa: FBT001 - a column of the table above
    status: int,
) -> None:
    """No usable answer: tried again shortly; what the Registry had stored answers 409 and is a success."""
    service = serve(vhost, registry_timeout_seconds="0.7")
    sandbox.faults.for_next(1, **fault)
    (message_id,) = ledger.publish(1)
    ledger.await_settled()
    assert ledger.balance(sandbox).registered == {message_id}
    outcome = "already_registered" if stored else "registered"
    assert service.value("journeys_total", outcome=outcome) == 1
    assert attempts(service) == {message_id: 2}
    statuses = Counter(request.status for request in sandbox.requests)
    assert statuses[409 if stored else 201] >= 1
    if status not in (201, 0):
        assert statuses[status] == 1


def test_unavailable_for_long(serve: Run, ledger: Ledger, vhost: Broker, sandbox: LocalRegistry) -> None:
    """Short retries, then back through a delay queue; a restart of the service in between costs nothing."""
    service = serve(vhost, retry_delays_seconds="1,2", retry_attempts_per_visit="2")
    sandbox.faults.for_next(2, maintenance=True)
    (message_id,) = ledger.publish(1)
    delayed = ledger.topology.delay_queue(1)
    wait_until(lambda: vhost.depth(delayed).total == 1, 10, "in the delay queue", interval=0.01)
    assert service.terminate() == 0
    service.start()
    ledger.await_settled()
    assert ledger.balance(sandbox).registered == {message_id}
    assert [(line["outcome"], line["attempts"]) for line in service.log_lines("settled")] == [
        ("delayed", 2),
        ("registered", 3),
    ]


def test_exhausted(serve: Run, ledger: Ledger, vhost: Broker, sandbox: LocalRegistry) -> None:
    """When its attempts are used up a journey is a dead letter that says how often and since when."""
    service = serve(vhost, retry_max_attempts="5", retry_attempts_per_visit="2")
    sandbox.faults.maintenance = True
    (message_id,) = ledger.publish(1)
    ledger.await_settled()
    letters = dead(ledger, "exhausted")
    assert letters.keys() == {message_id}
    told = letters[message_id].headers
    assert (told["x-attempts"], told["x-status"], told["x-detail"]) == (5, 503, "503")
    since = datetime.fromisoformat(told["x-first-failure"])
    assert timedelta(seconds=2.5) < datetime.fromisoformat(told["x-last-failure"]) - since
    assert (told["x-original-exchange"], told["x-original-routing-key"]) == ("", QUEUE)
    assert sandbox.requests_by_status == {503: 5}
    assert service.value("dead_lettered_total", reason="exhausted") == 1
    ledger.balance(sandbox)


def test_exhausted_by_the_deadline(serve: Run, ledger: Ledger, vhost: Broker, sandbox: LocalRegistry) -> None:
    """After 24 hours nothing is tried again."""
    service = serve(vhost)
    sandbox.faults.maintenance = True
    message_id, payload = made(ledger, ended=24 * 3600)
    ledger.publish([(message_id, samples.encode(payload))])
    ledger.await_settled()
    assert ledger.balance(sandbox).dead == {"exhausted": {message_id}}
    assert sandbox.requests_by_status == {503: 1}
    assert service.value("deadline_missed_total") == 1


@pytest.mark.parametrize("outage", ["maintenance", "down"])
def test_an_outage_pauses_and_costs_no_attempts(
    serve: Run, ledger: Ledger, vhost: Broker, sandbox: LocalRegistry, outage: str
) -> None:
    """The breaker opens, probes its way back, and every journey is registered."""
    service = serve(vhost, retry_max_attempts="6", breaker_threshold="5", registry_concurrency="4")
    if outage == "down":
        sandbox.down()
    else:
        sandbox.faults.maintenance = True
    ids = ledger.publish(60)
    wait_until(paused(service, "unavailable"), 20, "consumption pauses")

    def probes() -> float:
        return service.value("breaker_transitions_total", cause="unavailable", to="half_open")

    wait_until(lambda: probes() >= 8, 20, "it probes, more often than a journey has attempts")
    assert service.ready
    if outage == "down":
        sandbox.up()
    else:
        sandbox.faults.maintenance = False
    ledger.await_settled()
    account = ledger.balance(sandbox)
    assert account.registered == set(ids)
    assert account.dead == {}
    assert max(attempts(service).values()) <= 6
    assert not paused(service, "unavailable")()


# --- Misconfigured ------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["not_found", "redirect", "version"])
@pytest.mark.usefixtures("ledger")
def test_misconfigured(serve: Run, vhost: Broker, fault: str) -> None:
    """A wrong route, version or address pauses at once; nothing is dead-lettered, the token goes nowhere."""
    with LocalRegistry() as elsewhere, LocalRegistry(profile=Profile.Y2023) as registry:
        match fault:
            case "not_found":
                registry.faults.not_found = True
            case "redirect":
                registry.faults.redirect = f"{elsewhere.url}/v2/journeys"
        version = "v3.3" if fault == "version" else "v2"
        journeys = Ledger(vhost, version="v3" if fault == "version" else "v2")
        ids = journeys.publish(40)
        service = serve(vhost, registry_url=registry.url, registry_api_version=version)
        wait_until(paused(service, "misconfigured"), 20, "consumption pauses")
        asked = len(registry.requests)
        wait_until(lambda: len(registry.requests) >= asked + 3, 20, "it probes")
        wait_until(
            lambda: journeys.waiting() == 40, 10, "all wait; a copy is there before its original is gone"
        )
        assert not elsewhere.requests
        assert any(line.get("cause") == "misconfigured" for line in service.log_lines())
        if fault == "version":
            assert service.terminate() == 0
            assert journeys.balance(registry).queued == set(ids)
            return
        registry.faults.clear()
        journeys.await_settled()
        assert journeys.balance(registry).registered == set(ids)
