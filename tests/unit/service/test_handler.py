"""From a delivery to its result: what is sent, how often, when, and what it costs."""

import asyncio
import base64
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.app import RATE_LIMITER_BURST
from consumer.core.outcome import (
    Acknowledge,
    AlreadyRegistered,
    DeadLetter,
    Delay,
    Misconfigured,
    Outcome,
    PauseCause,
    Proof,
    Reason,
    Registered,
    Release,
    Republish,
)
from consumer.publishing import samples
from consumer.registry.secret import LoadedToken
from consumer.service.admission import Permit
from tests.corridor import PROBE_SECONDS, THRESHOLD, Corridor, passes, refused, registered, unavailable
from tests.travel import loop, travelling

#: A first failure before any test journey passes.
EARLIER = "2026-11-23T10:00:00+00:00"
CLOUDEVENT = "application/cloudevents+json"


class Rotating:
    """A token file in memory: ``renew`` finds the next token."""

    held: LoadedToken | None = None

    def __init__(self, *tokens: str | Outcome) -> None:
        self.tokens = list(tokens)
        self.renewed: list[str] = []

    async def token(self) -> str | Outcome:
        return self.tokens[0]

    async def renew(self, refused: str) -> bool:
        self.renewed.append(refused)
        if len(self.tokens) > 1:
            self.tokens.pop(0)
        return self.tokens[0] != refused

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Nothing changes by itself."""

    async def aclose(self) -> None:
        """Nothing runs."""


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (registered(), Acknowledge(Registered(201, "2026-11-23T16:00:00Z"))),
        (refused(409, -32509), Acknowledge(AlreadyRegistered(409))),
        (
            refused(400, -32602, ["/driver/revenue: must be integer"]),
            DeadLetter(Reason.REJECTED, "-32602 at driver.revenue", 400),
        ),
        (refused(401, -32501), DeadLetter(Reason.UNAUTHORIZED, "-32501", 401)),
        (
            refused(500, 500, "JsonWebTokenError"),
            DeadLetter(Reason.UNAUTHORIZED, "JsonWebTokenError", 500),
        ),
        (refused(403, -32503), DeadLetter(Reason.FORBIDDEN, "-32503", 403)),
        (
            refused(422, -32422, {"terms_violation_labels": ["expired"]}),
            DeadLetter(Reason.EXPIRED, "-32422 expired", 422),
        ),
    ],
    ids=lambda value: str(value.status_code) if isinstance(value, httpx.Response) else "",
)
@travelling
async def test_one_answer_is_enough(answer: httpx.Response, result: Any) -> None:
    """The answer decides at once; it cost one attempt."""
    corridor = Corridor(answer)
    found = await corridor.handle()
    assert (found.disposition, found.attempts, len(corridor.sent)) == (result, 1, 1)


UNREADABLE = [
    (b"", {}, "empty"),
    (b" \n", {}, "empty"),
    (b"{", {}, "not_json"),
    (b"not json", {}, "not_json"),
    (b'{"a": NaN}', {}, "missing"),
    (b'{"distance": NaN, "incentive_counterparts": [Infinity]', {}, "not_json"),
    (b'"\xff"', {}, "not_utf8"),
    (b"[" * 1000 + b"]" * 1000, {}, "nested_too_deep"),
    (b"[" * 100_000 + b"]" * 100_000, {}, "too_complex"),
    (b"12", {}, "wrong_type"),
    (b"[]", {}, "wrong_type"),
    (b" " * (2 * 1024 * 1024 + 1), {}, "too_large"),
    (b"[" + b"{}," * 300_000 + b"{}]", {}, "too_complex"),
    (b"x", {"headers": {"compression": "application/x-gzip"}}, "compressed"),
    (b"x", {"properties": {"content_encoding": "gzip"}}, "compressed"),
    (b"{}", {"properties": {"content_type": CLOUDEVENT}}, "cloudevent_without_data"),
    (b"[{}]", {"properties": {"content_type": "application/cloudevents-batch+json"}}, "cloudevents_batch"),
    (b"{}", {}, "missing"),
]


@pytest.mark.parametrize(("body", "more", "code"), UNREADABLE, ids=lambda v: v if isinstance(v, str) else "")
@travelling
async def test_what_cannot_be_read_is_never_sent(body: bytes, more: dict[str, Any], code: str) -> None:
    """An invalid dead letter with the reason's code, without any attempt."""
    corridor = Corridor()
    result = await corridor.handle(body, **more)
    assert isinstance(result.disposition, DeadLetter)
    assert (result.disposition.reason, result.disposition.status) == (Reason.INVALID, None)
    assert result.disposition.detail.split(" ")[0] == code
    assert (result.attempts, corridor.sent) == (0, [])


def _event(data: dict[str, Any]) -> dict[str, Any]:
    return {"specversion": "1.0", "id": "1", "source": "/trips", "type": "journey.completed", "data": data}


@pytest.mark.parametrize("kind", ["plain", "structured", "unlabelled", "base64", "binary", "api_version"])
@travelling
async def test_the_payload_goes_out_byte_for_byte(kind: str) -> None:
    """White space, order and escapes stay; only an `api_version` is cut out, and an event unwrapped."""
    corridor = Corridor()
    text = json.dumps(corridor.payload(), indent=1).replace("journey-0", "journ\\u0065y-0")
    more: dict[str, Any] = {}
    match kind:
        case "structured" | "unlabelled":
            sent = json.dumps(_event({})).replace('"data": {}', f'"data":  {text} ')
            if kind == "structured":
                more = {"properties": {"content_type": f"{CLOUDEVENT}; charset=utf-8"}}
        case "base64":
            event = {**_event({}), "data_base64": base64.b64encode(text.encode()).decode()}
            del event["data"]
            sent, more = json.dumps(event), {"properties": {"content_type": CLOUDEVENT}}
        case "binary":
            sent = text
            more = {"headers": {"cloudEvents:specversion": "1.0", "ce-id": "1"}}
        case "api_version":
            sent = text.replace("{", '{"api_version" : "v9",', 1)
        case _:
            sent = text
    result = await corridor.handle(sent.encode(), **more)
    assert isinstance(result.disposition, Acknowledge)
    (request,) = corridor.sent
    assert request.content == text.encode()


@travelling
async def test_failures_are_tried_again_and_counted() -> None:
    """Two failures and a success are three attempts, with a wait between them."""
    corridor = Corridor(unavailable(), httpx.ReadError("gone"), registered())
    result = await corridor.handle()
    assert isinstance(result.disposition, Acknowledge)
    assert (result.attempts, len(corridor.sent)) == (3, 3)
    assert corridor.value("retries_total", reason="5xx") == 1
    assert corridor.value("retries_total", reason="read") == 1


@travelling
async def test_a_lost_answer_is_sent_again_and_found_registered() -> None:
    """The Registry had stored the journey: the second attempt meets a 409, and that is a success."""
    corridor = Corridor(httpx.RemoteProtocolError("closed"), CONFLICT)
    corridor.status = status("ok")
    result = await corridor.handle()
    verified = AlreadyRegistered(409, Proof.VERIFIED, "ok")
    assert (result.disposition, result.attempts) == (Acknowledge(verified), 2)


@travelling
async def test_after_some_attempts_the_journey_comes_back_later() -> None:
    """The first delivery ends in the first delay queue, the next in the second, which is the last."""
    corridor = Corridor(unavailable(), retry_attempts_per_visit=2)
    result = await corridor.handle()
    assert (result.disposition, result.attempts) == (Delay(60, "503", 503), 2)
    corridor = Corridor(unavailable(), retry_attempts_per_visit=2)
    result = await corridor.handle(headers={"x-attempts": 2, "x-visits": 1})
    assert (result.disposition, result.attempts) == (Delay(300, "503", 503), 4)


@travelling
async def test_the_last_attempt_exhausts_the_journey() -> None:
    """No more than the bound, over all deliveries, counted while others pass."""
    corridor = Corridor(unavailable(), retry_max_attempts=7)
    async with corridor.open():
        entry = corridor.entry(headers={"x-attempts": 5, "x-visits": 2, "x-first-failure": EARLIER})
        corridor.admission.record(Permit(), Registered(201), "another")
        result = await corridor.handler.handle(entry)
    assert (result.disposition, result.attempts) == (DeadLetter(Reason.EXHAUSTED, "503, not_stored", 503), 7)


@travelling
async def test_an_answer_about_one_journey_leaves_at_once_while_others_pass() -> None:
    """A firewall's 406, a gateway's 413, a 500 of no known kind: one request, one attempt, a delay queue."""
    for answer, detail in (
        (httpx.Response(406, text="<html>blocked</html>"), "http_406"),
        (httpx.Response(413, text="<html>too large</html>"), "foreign_413"),
        (httpx.Response(500, json={"jsonrpc": "2.0", "id": 1, "error": {"message": "?"}}), "http_500"),
    ):
        corridor = Corridor(answer)
        async with corridor.open():
            entry = corridor.entry(headers={"x-first-failure": EARLIER})
            corridor.admission.record(Permit(), Registered(201), "another")
            result = await corridor.handler.handle(entry)
        assert (result.disposition, result.attempts) == (Delay(60, detail, answer.status_code), 1)
        assert len(corridor.sent) == 1


@travelling
async def test_after_the_deadline_there_is_one_attempt() -> None:
    """The Registry has the last word about 24 hours, but nothing is retried after them."""
    corridor = Corridor(unavailable())
    body = samples.encode(corridor.payload(ends_in_seconds=-25 * 3600))
    result = await corridor.handle(body)
    assert (result.disposition, result.attempts) == (DeadLetter(Reason.EXHAUSTED, "503, not_stored", 503), 1)


@travelling
async def test_an_early_journey_is_held_until_its_end_has_passed() -> None:
    """Ten seconds early by our clock: sent after that, at no cost."""
    corridor = Corridor()
    began = loop().time()
    result = await corridor.handle(samples.encode(corridor.payload(ends_in_seconds=10)))
    assert isinstance(result.disposition, Acknowledge)
    assert result.attempts == 1
    assert 10 < corridor.sent_at[0] - began < 13


@travelling
async def test_a_journey_hours_early_waits_in_a_delay_queue() -> None:
    """Nothing is sent, no attempt is charged, the longest delay that does not overshoot is taken."""
    corridor = Corridor()
    result = await corridor.handle(samples.encode(corridor.payload(ends_in_seconds=7200)))
    assert (result.disposition, result.attempts) == (Delay(300, "ends_in_future", None), 0)
    assert corridor.sent == []


@travelling
async def test_a_journey_days_early_is_invalid() -> None:
    """Beyond the bound it is nonsense."""
    corridor = Corridor()
    result = await corridor.handle(samples.encode(corridor.payload(ends_in_seconds=2 * 86_400)))
    assert result.disposition == DeadLetter(Reason.INVALID, "ends_in_future at end.datetime", None)


@travelling
async def test_early_by_the_registrys_clock_only() -> None:
    """Its clock is behind ours: tried again soon, and registered."""
    early = refused(422, -32700, "Journeys cannot happen in the future")
    corridor = Corridor(early, registered())
    result = await corridor.handle()
    assert isinstance(result.disposition, Acknowledge)
    assert result.attempts == 2


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [(refused(429, 429, Retry_After="30"), 30.0), (refused(429, 429), 60.0)],
    ids=["told", "not told"],
)
@travelling
async def test_when_throttled_everybody_waits(answer: httpx.Response, seconds: float) -> None:
    """As long as the answer says, or a window; it costs no attempt."""
    corridor = Corridor(answer, registered())
    async with corridor.open():
        began = loop().time()
        first = asyncio.create_task(corridor.handler.handle(corridor.entry()))
        await passes(1)
        late = samples.encode(corridor.payload(1))
        second = asyncio.create_task(corridor.handler.handle(corridor.entry(late)))
        results = await asyncio.gather(first, second)
    assert [result.attempts for result in results] == [1, 1]
    assert all(at - began >= seconds for at in corridor.sent_at[1:])
    assert len(corridor.sent) == 3


@travelling
async def test_a_refused_token_is_looked_up_once_more() -> None:
    """The file may just have changed: no journey pays for that."""
    tokens = Rotating("old", "new")
    corridor = Corridor(refused(401, -32501), registered(), tokens=tokens)
    result = await corridor.handle()
    assert isinstance(result.disposition, Acknowledge)
    assert [request.headers["authorization"] for request in corridor.sent] == ["Bearer old", "Bearer new"]
    assert tokens.renewed == ["old"]


@travelling
async def test_a_token_that_stays_refused_is_believed() -> None:
    """One second look, not more."""
    corridor = Corridor(refused(401, -32501), tokens=Rotating("old", "new"))
    result = await corridor.handle()
    assert result.disposition == DeadLetter(Reason.UNAUTHORIZED, "-32501", 401)
    assert len(corridor.sent) == 2


@travelling
async def test_without_a_token_nothing_is_sent_and_nothing_is_dead_lettered() -> None:
    """That concerns every journey: consumption pauses at once, and the journey goes back to the queue."""
    corridor = Corridor(tokens=Rotating(Misconfigured(0, "token_file_empty")))
    async with corridor.open():
        result = await corridor.handler.handle(corridor.entry())
    assert corridor.admission.pausing is PauseCause.MISCONFIGURED
    assert (result.disposition, result.attempts) == (Delay(60, "token_file_empty", 0, counts=False), 0)
    assert corridor.sent == []


@travelling
async def test_what_pauses_costs_no_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Different journeys fail and none passes: an outage, and from then on nothing of it is charged."""
    monkeypatch.setattr("random.random", lambda: 0.99)
    corridor = Corridor(unavailable())
    async with corridor.open():
        entries = [
            corridor.entry(samples.encode(corridor.payload(number))) for number in range(THRESHOLD + 2)
        ]
        results = await asyncio.gather(*map(corridor.handler.handle, entries))
        assert corridor.admission.pausing is PauseCause.UNAVAILABLE
        late = corridor.entry(samples.encode(corridor.payload(99)))
        corridor.admission._open[PauseCause.UNAVAILABLE].probe_now(loop().time())
        results.append(await corridor.handler.handle(late))
    assert all(isinstance(result.disposition, Delay | Republish) for result in results)
    assert max(result.attempts for result in results) <= 3, "until it is known"
    assert (results[-1].disposition, results[-1].attempts) == (Delay(60, "503", 503, counts=False), 0)


@travelling
async def test_no_more_requests_are_under_way_than_allowed() -> None:
    """`REGISTRY_CONCURRENCY` is a bound for the whole process."""

    async def slow(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(1)
        return registered()

    corridor = Corridor(slow, registry_concurrency=3)
    async with corridor.open():
        bodies = [samples.encode(corridor.payload(number)) for number in range(10)]
        await asyncio.gather(*(corridor.handler.handle(corridor.entry(body)) for body in bodies))
    assert corridor.most_in_flight == 3


Situation = Callable[[Corridor], Awaitable[None]]


async def _drained(corridor: Corridor) -> None:
    corridor.handler.begin_drain()


async def _lost(corridor: Corridor) -> None:
    corridor.link.lose()


async def _too_long(_: Corridor) -> None:
    await passes(700)


@pytest.mark.parametrize(
    ("end", "disposition"),
    [(_drained, Release()), (_lost, Release()), (_too_long, None)],
)
@pytest.mark.parametrize(
    ("waiting", "reason"),
    [
        ("throttled", "throttled"),
        ("early", "early"),
        ("paced", "rate limit"),
        ("retry", "unavailable"),
    ],
)
@travelling
async def test_waiting_ends(
    waiting: str, reason: str, end: Situation, disposition: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a journey waits for: the drain, a lost connection and the holding time end it, untouched."""
    answers: list[httpx.Response] = [unavailable()]
    ends_in_seconds = -1.0
    settings: dict[str, Any] = {"hold_limit_seconds": 20.0}
    match waiting:
        case "throttled":
            answers = [refused(429, 429, Retry_After="3000")]
        case "early":
            ends_in_seconds = 29.0
        case "paced":
            settings |= {"registry_rate_per_minute": 1}
        case _:
            settings |= {
                "retry_backoff_base_seconds": 60,
                "retry_backoff_cap_seconds": 300,
                "retry_attempts_per_visit": 20,
            }
            monkeypatch.setattr("random.random", lambda: 0.99)
    corridor = Corridor(*answers, **settings)
    async with corridor.open():
        if waiting == "paced":
            for _ in range(RATE_LIMITER_BURST):
                await corridor.admission.acquire(give_up=lambda: False, until=float("inf"))
        body = samples.encode(corridor.payload(ends_in_seconds=ends_in_seconds))
        handled = asyncio.create_task(corridor.handler.handle(corridor.entry(body)))
        await passes(5)
        assert not handled.done()
        assert corridor.assembled.in_flight.waiting == 1
        sent = len(corridor.sent)
        await end(corridor)
        await passes(0.1)
        assert handled.done()
    republish: Any = Republish(f"held too long: {reason}")
    if waiting == "throttled":  # a delay at no cost, whose headers remember the 429
        republish = Delay(60, republish.detail, 429, counts=False)
    assert handled.result().disposition == (disposition or republish)
    assert len(corridor.sent) <= sent + 700 / (PROBE_SECONDS / 2)


@given(
    attempts=st.integers(-3, 10**12) | st.text(max_size=3) | st.booleans(),
    delayed_retries=st.integers(-3, 10**12) | st.text(max_size=3),
)
def test_no_header_of_a_message_can_break_the_handler(attempts: object, delayed_retries: object) -> None:
    """Headers are other people's text: whatever they say, there is a result."""

    @travelling
    async def handled() -> None:
        corridor = Corridor(unavailable())
        result = await corridor.handle(headers={"x-attempts": attempts, "x-visits": delayed_retries})
        assert isinstance(result.disposition, Delay | DeadLetter)

    handled()


@travelling
async def test_the_oldest_pending_journey_is_known() -> None:
    """For the metric that tells how close the deadline is."""
    corridor = Corridor(refused(404, -32601))
    async with corridor.open():
        old = corridor.payload(1, ends_in_seconds=-7200)
        entries = [corridor.entry(), corridor.entry(samples.encode(old))]
        tasks = [asyncio.create_task(corridor.handler.handle(entry)) for entry in entries]
        await passes(1)
        oldest = corridor.assembled.in_flight.oldest_start
        assert oldest is not None
        assert oldest.isoformat() == old["start"]["datetime"]
        await _drained(corridor)
        await asyncio.gather(*tasks)


def status(said: str, *labels: str) -> httpx.Response:
    """Return the status route's answer."""
    return httpx.Response(200, json={"status": said, "terms_violation_details": list(labels)})


REFUSED_FOR_TERMS = status("terms_violation_error", "distance_too_short")
CONFLICT = refused(409, -32509)


@pytest.mark.parametrize(
    ("before", "headers"),
    [
        ([refused(408, -32408)], {}),
        ([httpx.ReadError("cut")], {}),
        ([], {"x-attempts": 0}),
        ([], {"x-replays": 1}),
    ],
    ids=["after a 408", "after a lost answer", "after a delay or a republish", "a replay"],
)
@pytest.mark.parametrize(
    ("said", "result"),
    [
        (status("pending"), Acknowledge(AlreadyRegistered(409, Proof.VERIFIED, "pending"))),
        (REFUSED_FOR_TERMS, DeadLetter(Reason.REJECTED, "terms_violation_error distance_too_short", 409)),
        (
            status("terms_violation_error", "expired"),
            DeadLetter(Reason.EXPIRED, "terms_violation_error expired", 409),
        ),
        (unavailable(), Acknowledge(AlreadyRegistered(409, Proof.UNVERIFIED, "503"))),
    ],
    ids=["pending", "too short", "expired", "cannot be asked"],
)
@travelling
async def test_a_409_of_a_journey_that_was_sent_before_is_looked_up(
    before: list[Any], headers: dict[str, int], said: httpx.Response, result: Any
) -> None:
    """The Registry stores an id before it judges the terms of use: only the status says what a 409 hides."""
    corridor = Corridor(*before, CONFLICT)
    corridor.status = said
    assert (await corridor.handle(headers=headers)).disposition == result
    assert {request.url.path for request in corridor.asked} == {"/v3.3/journeys/" + _first_id(corridor)}


def _first_id(corridor: Corridor) -> str:
    return str(json.loads(corridor.sent[0].content)["operator_journey_id"])


@travelling
async def test_a_redelivered_409_is_looked_up_and_a_first_one_is_not() -> None:
    """What was delivered before may have been sent before."""
    corridor = Corridor(CONFLICT)
    corridor.status = REFUSED_FOR_TERMS
    first = await corridor.handle()
    assert first.disposition == Acknowledge(AlreadyRegistered(409))
    assert corridor.asked == []
    async with corridor.open():
        entry = corridor.entry()
        entry.delivery.redelivered = True
        again = await corridor.handler.handle(entry)
    assert again.disposition == DeadLetter(Reason.REJECTED, "terms_violation_error distance_too_short", 409)


@travelling
async def test_v2_has_no_status_route_and_says_unverified() -> None:
    """Nothing is asked; the success is not silent."""
    corridor = Corridor(CONFLICT, registry_api_version="v2")
    body = samples.encode(samples.journey("v2", random.Random(1), loop().now()))
    result = await corridor.handle(body, headers={"x-replays": 1})
    assert result.disposition == Acknowledge(AlreadyRegistered(409, Proof.UNVERIFIED, "no_status_route"))
    assert corridor.asked == []


@pytest.mark.parametrize(
    ("said", "result"),
    [
        (status("ok"), Acknowledge(AlreadyRegistered(200, Proof.VERIFIED, "ok"))),
        (REFUSED_FOR_TERMS, DeadLetter(Reason.REJECTED, "terms_violation_error distance_too_short", 200)),
        (unavailable(), DeadLetter(Reason.EXHAUSTED, "-32408, unverified: 503", 408)),
    ],
    ids=["ok", "refused", "cannot be asked"],
)
@travelling
async def test_an_exhausted_journey_is_looked_up_first(said: httpx.Response, result: Any) -> None:
    """A 408 was stored all the same: giving it up as exhausted would invite a needless replay."""
    corridor = Corridor(refused(408, -32408))
    corridor.status = said
    body = samples.encode(corridor.payload(ends_in_seconds=-25 * 3600))
    assert (await corridor.handle(body)).disposition == result
