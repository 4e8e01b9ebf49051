"""The life of the process, from the first delivery to the drain, with nothing lost on the way."""

import asyncio
import copy
import json
import logging
import operator
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.core.delivery import Mode
from consumer.core.outcome import PauseCause
from consumer.publishing import samples
from tests.corridor import PROBE_SECONDS, QUEUE, THRESHOLD, Corridor, passes, refused, registered, unavailable
from tests.travel import loop, travelling


def publish(corridor: Corridor, count: int, first: int = 0) -> None:
    """Put ``count`` different journeys into the queue."""
    for number in range(first, first + count):
        corridor.link.put(samples.encode(corridor.payload(number)), properties={"message_id": f"m-{number}"})


@travelling
async def test_journeys_flow() -> None:
    """Everything is registered, acknowledged, counted and logged once."""
    corridor = Corridor()
    async with corridor.serving():
        publish(corridor, 300)
        await passes(1)
        assert corridor.health.obstacle is None
    corridor.balance(300)
    assert corridor.value("journeys_total", outcome="registered") == 300
    assert corridor.value("deliveries_total") == 300
    assert len(corridor.settled()) == 300
    assert not corridor.link.queues[QUEUE]


async def _poisoned(request: httpx.Request) -> httpx.Response:
    """Fail journey 0, register all others."""
    return unavailable() if b'"journey-0"' in request.content else registered()


@travelling
async def test_a_journey_that_fails_while_others_pass_ends() -> None:
    """Charged, through the delay queues, and dead-lettered in the end; the others are not held up."""
    corridor = Corridor(_poisoned, retry_max_attempts=8)
    async with corridor.serving():
        publish(corridor, 1)
        for number in range(1, 200):
            publish(corridor, 1, first=number)
            await passes(60)
    (letter,) = corridor.dead("exhausted")
    assert letter.headers["x-attempts"] == 8
    assert corridor.value("journeys_total", outcome="registered") == 199
    assert corridor.value("breaker_transitions_total", cause="unavailable", to="open") == 0
    corridor.balance(200)


@travelling
async def test_a_journey_that_is_alone_ends_before_its_deadline() -> None:
    """Nothing can be compared with it: never a pause, and dead-lettered with two hours left."""
    corridor = Corridor(unavailable(), retry_delays_seconds=(60, 300, 900, 3600))
    async with corridor.serving():
        publish(corridor, 1)
        await passes(24 * 3600)
    (letter,) = corridor.dead("exhausted")
    failed = datetime.fromisoformat(letter.headers["x-last-failure"])
    start = datetime.fromisoformat(corridor.payload(0)["start"]["datetime"]) - timedelta(days=1)
    assert timedelta(hours=21) < failed - start < timedelta(hours=23)
    assert corridor.value("breaker_transitions_total", cause="unavailable", to="open") == 0
    assert len(corridor.sent) <= 75


@travelling
async def test_two_journeys_are_an_outage_after_minutes() -> None:
    """At one journey an hour: the second that fails, and none that passes, pauses consumption."""
    corridor = Corridor(unavailable())
    async with corridor.serving():
        publish(corridor, 1)
        await passes(3600)
        assert corridor.admission.pausing is None
        publish(corridor, 1, first=1)
        await passes(900)
        assert corridor.admission.pausing is PauseCause.UNAVAILABLE
        corridor.answers = [registered()]
        await passes(3700)
    assert corridor.value("journeys_total", outcome="registered") == 2


@travelling
async def test_a_dead_token_costs_one_dead_letter_at_a_start() -> None:
    """The first journey goes alone; one other asks whether it was its own trouble, and is put off."""
    corridor = Corridor(refused(401, -32501), proven=False)
    async with corridor.serving():
        publish(corridor, 200)
        await passes(5)
        assert corridor.admission.pausing is PauseCause.UNAUTHORIZED
        assert len(corridor.sent) == 2
        await passes(300)
        assert len(corridor.dead("unauthorized")) == 1


@travelling
async def test_a_pause_ends_though_a_dead_letter_cannot_be_confirmed() -> None:
    """What waits for a confirm holds up no probe."""
    corridor = Corridor(_poisoned)
    corridor.link.confirm_after_seconds = 1e6
    async with corridor.serving():
        corridor.link.put(b"no journey")
        await passes(1)
        corridor.link.confirm_after_seconds = 0.0
        corridor.answers = [unavailable()]
        publish(corridor, 30, first=1)
        await passes(1200)
        assert corridor.admission.pausing is PauseCause.UNAVAILABLE
        assert corridor.value("in_flight") >= 1
        corridor.answers = [registered()]
        await passes(200)
        assert corridor.admission.pausing is None
        assert corridor.value("journeys_total", outcome="registered") == 30


@pytest.mark.parametrize("proven", [False, True], ids=["at a start", "in a pause"])
@travelling
async def test_dead_letters_that_are_never_confirmed_hold_up_no_journey(*, proven: bool) -> None:
    """Neither the first submission nor a probe waits for the confirm of what came before it in the queue."""
    corridor = Corridor(registered(), proven=proven)
    async with corridor.serving():
        if proven:
            corridor.answers = [unavailable()]
            publish(corridor, 12)
            await passes(20)
            assert corridor.admission.pausing is PauseCause.UNAVAILABLE
            corridor.answers = [registered()]
        corridor.link.confirm_after_seconds = 1e6
        for _ in range(10):
            corridor.link.put(b"no journey")
        publish(corridor, 5, first=12)
        await passes(100)
        assert corridor.admission.pausing is None
        assert corridor.value("journeys_total", outcome="registered") >= 5
        corridor.link.confirm_after_seconds = 0.0


@travelling
async def test_a_full_dead_letter_queue_holds_up_no_journey(caplog: pytest.LogCaptureFixture) -> None:
    """A quarter of the prefetch waits for it; the others are delayed, and arrive in the end."""
    corridor = Corridor(registered())
    queue = corridor.topology.dead_letter_queue("invalid")
    async with corridor.serving():
        corridor.link.full.add(queue)
        for _ in range(300):
            corridor.link.put(b"no journey")
        publish(corridor, 200)
        await passes(20)
        assert corridor.value("journeys_total", outcome="registered") == 200
        assert corridor.value("in_flight") <= max(1, corridor.settings.broker_prefetch // 4)
        assert not corridor.dead("invalid")
        corridor.link.full.clear()
        await passes(200)
        assert len(corridor.dead("invalid")) == 300
    corridor.balance(500)
    refusals = [record for record in caplog.records if record.msg == "a dead letter is refused"]
    assert refusals
    assert (refusals[0].queue, refusals[0].reason) == (queue, "nacked: length limit?")  # type: ignore[attr-defined]
    refused = corridor.value("dead_letters_refused_total", reason="invalid", cause="nacked")
    assert refused >= 300


@travelling
async def test_a_dead_letter_queue_that_confirms_nothing_holds_up_no_journey() -> None:
    """One queue without a quorum: as with one that is full, the others go on."""
    corridor = Corridor(registered(), broker_prefetch=16)
    queue = corridor.topology.dead_letter_queue("invalid")
    async with corridor.serving():
        corridor.link.silent.add(queue)
        for _ in range(40):
            corridor.link.put(b"no journey")
        publish(corridor, 20)
        await passes(400)
        assert corridor.value("journeys_total", outcome="registered") == 20
        corridor.link.silent.clear()
        await passes(300)
        assert len(corridor.dead("invalid")) == 40
    corridor.balance(60)


@travelling
async def test_many_journeys_with_a_403_of_their_own_hold_up_no_good_one() -> None:
    """They pause consumption, and its probes come in rounds: not one bad journey a minute."""

    async def answer(request: httpx.Request) -> httpx.Response:
        bad = int(json.loads(request.content)["operator_journey_id"].removeprefix("journey-")) < 40
        return refused(403, -32503) if bad else registered()

    corridor = Corridor(answer, auth_probe_seconds=60.0, breaker_probe_cap_seconds=60.0)
    async with corridor.serving():
        publish(corridor, 41)
        await passes(900)
        assert corridor.value("journeys_total", outcome="registered") == 1


@travelling
async def test_in_a_pause_a_good_journey_keeps_its_place_in_the_queue() -> None:
    """It is not taken before it may probe: sent back to the end again and again it would never probe."""
    corridor = Corridor(unavailable(), breaker_probe_seconds=60.0, breaker_probe_cap_seconds=60.0)
    async with corridor.serving():
        publish(corridor, 12)
        await passes(30)
        assert corridor.admission.pausing is PauseCause.UNAVAILABLE
        returned = corridor.value("returned_total", kind="returned")
        await passes(1200)
        assert corridor.value("returned_total", kind="returned") == returned


@travelling
async def test_in_a_pause_what_went_back_to_a_queue_counts_as_pending() -> None:
    """Hardly any journey is in flight then; JourneysDeadlineAtRisk must know of the oldest all the same."""
    corridor = Corridor(unavailable())
    async with corridor.serving():
        publish(corridor, 12)
        await passes(300)
        for _ in range(50):
            await passes(7)
            assert corridor.value("oldest_pending_start_timestamp_seconds") > 0
        corridor.answers = [registered()]
        await passes(200)
        assert corridor.value("oldest_pending_start_timestamp_seconds") == 0


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(500, json={"jsonrpc": "2.0", "id": 1, "error": {"message": "no known text"}}),
        httpx.Response(406, text="<html>blocked</html>"),
        httpx.Response(400, text="<html>400 The plain HTTP request was sent to HTTPS port</html>"),
        httpx.Response(302, headers={"location": "/elsewhere"}),
        httpx.Response(200, json={"status": "ok"}),
        refused(404, -32601),
    ],
    ids=["500", "406", "400", "302", "200", "404"],
)
@pytest.mark.parametrize(("bad", "good"), [(1, 40), (12, 30), (150, 30)])
@travelling
async def test_bad_journeys_in_front_hold_up_no_good_one(answer: httpx.Response, bad: int, good: int) -> None:
    """Whatever answers them, and however many there are: the good ones are registered within two minutes."""

    async def registry(request: httpx.Request) -> httpx.Response:
        number = int(json.loads(request.content)["operator_journey_id"].removeprefix("journey-"))
        await asyncio.sleep(0.02)
        return answer if number < bad else registered()

    corridor = Corridor(registry, proven=False, registry_concurrency=64)
    corridor.link._prefetch = 128
    async with corridor.serving():
        publish(corridor, bad + good)
        await passes(120)
        assert corridor.value("journeys_total", outcome="registered") == good
        publish(corridor, 1, first=bad + good)  # bad ones alone cannot be told from an outage
        await passes(300)
        assert corridor.value("journeys_total", outcome="registered") == good + 1
        assert {name for name, held in corridor.link.queues.items() if held} <= {
            *map(corridor.topology.delay_queue, (60, 300)),
            QUEUE,
        }


@travelling
async def test_a_bad_token_pauses_before_the_backlog_is_gone() -> None:
    """As many dead letters as the threshold and what was under way; the rest stays in the queue."""
    corridor = Corridor(refused(401, -32501), registry_concurrency=1)
    corridor.link._prefetch = 4
    async with corridor.serving():
        publish(corridor, 200)
        await passes(600)
        assert corridor.admission.pausing is PauseCause.UNAUTHORIZED
        assert len(corridor.dead("unauthorized")) == THRESHOLD
        assert corridor.health.obstacle is None, "a pause is not the process's fault"
        probes = len(corridor.sent)
        assert probes <= THRESHOLD + 600 / (PROBE_SECONDS / 2)
        corridor.answers = [registered()]
        await passes(60)
        assert corridor.admission.pausing is None
    assert corridor.value("journeys_total", outcome="registered") == 200 - THRESHOLD
    assert len(corridor.dead("unauthorized")) == THRESHOLD
    corridor.balance(200)


@travelling
async def test_a_wrong_route_kills_nothing() -> None:
    """404: paused at once, and resumed when the route is there."""
    corridor = Corridor(refused(404, -32601))
    async with corridor.serving():
        publish(corridor, 50)
        await passes(3000)
        assert corridor.admission.pausing is PauseCause.MISCONFIGURED
        corridor.answers = [registered()]
        await passes(100)
    corridor.balance(50)
    assert corridor.value("journeys_total", outcome="registered") == 50


@travelling
async def test_an_outage_costs_no_journey_its_attempts() -> None:
    """Two hours: everything is registered afterwards, and none was near the bound of attempts."""
    corridor = Corridor(unavailable(), retry_max_attempts=10)
    async with corridor.serving():
        publish(corridor, 30)
        await passes(2 * 3600)
        assert corridor.admission.pausing is PauseCause.UNAVAILABLE
        corridor.answers = [registered()]
        await passes(700)
    corridor.balance(30)
    assert corridor.value("journeys_total", outcome="registered") == 30


@travelling
async def test_paused_it_takes_one_and_holds_few() -> None:
    """What was taken before the pause is given back in time; the rest never leaves the queue."""
    corridor = Corridor(refused(404, -32601), hold_limit_seconds=100.0)
    async with corridor.serving():
        publish(corridor, 50)
        await passes(250)
        for _ in range(10):
            assert corridor.link._mode in (Mode.PROBE, Mode.NONE)
            assert len(corridor.link._unacked) <= 1
            waiting = corridor.link.queues
            assert len(waiting[QUEUE]) + len(waiting["journeys.retry.60s"]) >= 49
            await passes(25)


@travelling
async def test_the_drain_finishes_what_is_under_way() -> None:
    """What is being sent is finished and settled, what waits goes back, nothing new begins."""

    async def slow(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(5)
        return registered()

    corridor = Corridor(slow, registry_concurrency=3)
    corridor.link._prefetch = 10
    async with corridor.serving():
        publish(corridor, 20)
        await passes(1)
        began = loop().time()
    assert loop().time() - began == pytest.approx(4.0, abs=0.1)
    assert corridor.value("journeys_total", outcome="registered") == 3
    assert len(corridor.link.queues[QUEUE]) == 17
    corridor.balance(20)
    assert corridor.health.obstacle == "draining"


@travelling
async def test_the_drain_has_an_end() -> None:
    """What is not finished in time is given back, whatever the Registry does with it."""

    async def never(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(1e6)
        return registered()

    corridor = Corridor(never, drain_timeout_seconds=5.0)
    async with corridor.serving():
        publish(corridor, 4)
        await passes(0.1)
        began = loop().time()
    assert loop().time() - began == pytest.approx(5.0, abs=0.1)
    assert len(corridor.link.queues[QUEUE]) == 4
    corridor.balance(4)


@travelling
async def test_the_drain_does_not_wait_for_delays(caplog: pytest.LogCaptureFixture) -> None:
    """Without delay queues a journey waits for its delay in the process: it goes back at once, counted."""
    corridor = Corridor(unavailable())
    corridor.link.delay_queues = False
    async with corridor.serving():
        publish(corridor, 1)
        await passes(20)
        assert corridor.value("in_flight") == 1
        began = loop().time()
    assert loop().time() - began < 0.1
    (waiting,) = corridor.link.queues[QUEUE]
    assert (waiting.headers["x-attempts"], waiting.headers["x-visits"]) == (3, 1)
    assert [record for record in caplog.records if record.levelno > logging.WARNING] == []
    corridor.balance(1)


@travelling
async def test_a_lost_connection_costs_a_repetition_and_no_journey() -> None:
    """Each journey is sent again and acknowledged once."""

    async def slow(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(1)
        return registered()

    corridor = Corridor(slow, registry_concurrency=100)
    async with corridor.serving():
        publish(corridor, 20)
        await passes(0.5)
        corridor.link.lose()
        await passes(5)
    assert len(corridor.sent) == 40
    assert corridor.value("journeys_total", outcome="registered") == 20
    assert corridor.value("redelivered_total") == 20
    corridor.balance(20)


@travelling
async def test_a_mistake_of_ours_is_an_attempt_like_any_other(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delayed, bounded, exhausted in the end; the log says where, and nothing of the journey."""
    corridor = Corridor(retry_max_attempts=3)
    payload = corridor.payload()

    def broken(*_: Any) -> Any:
        raise KeyError(payload["driver"]["identity"]["phone"])

    monkeypatch.setattr("consumer.service.inflight.parse", broken)
    async with corridor.serving():
        corridor.link.put(samples.encode(payload))
        await passes(3600)
    (letter,) = corridor.dead("exhausted")
    assert letter.headers["x-detail"] == "internal error KeyError"
    assert letter.headers["x-attempts"] == 3
    corridor.balance(1)
    assert [record.levelno for record in caplog.records if record.exc_info] == [logging.ERROR] * 3


@travelling
async def test_gauges_say_what_is_held() -> None:
    """In flight, held and the oldest start, while it lasts and afterwards."""
    corridor = Corridor(refused(429, 429, Retry_After="30"), registered())
    async with corridor.serving():
        publish(corridor, 5)
        await passes(10)
        assert corridor.value("in_flight") == 5
        assert corridor.value("held") == 5
        assert corridor.value("oldest_pending_start_timestamp_seconds") > 0
        await passes(60)
        assert corridor.value("in_flight") == 0
        assert corridor.value("oldest_pending_start_timestamp_seconds") == 0


@pytest.mark.parametrize(
    ("task", "patched"),
    [
        ("consumer", "_consumer.run"),
        ("publisher", "_publisher.watch"),
        ("token", "_watch_token"),
        ("tick", "_tick"),
        ("auto-replay", "_auto_replayer.run"),
    ],
)
@pytest.mark.parametrize("end", ["fails", "returns", "is cancelled"])
@travelling
async def test_a_background_task_that_ends_stops_the_process(
    task: str, patched: str, end: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not ready at once and in words, drained, and an error in the end, however the task has ended."""
    corridor = Corridor()
    until = asyncio.Event()

    async def ending(*_: Any) -> None:
        await until.wait()
        if end == "fails":
            raise OSError("text")
        if end == "is cancelled":
            raise asyncio.CancelledError

    owner, _, name = f"service.{patched}".rpartition(".")
    monkeypatch.setattr(operator.attrgetter(owner)(corridor), name, ending)
    running = asyncio.create_task(corridor.service.run())
    await passes(1)
    assert not running.done()
    until.set()
    while corridor.health.obstacle != f"the task {task} has ended":
        assert not running.done()
        await asyncio.sleep(0)
    with pytest.raises(OSError if end == "fails" else RuntimeError):
        await running
    (said,) = [record for record in caplog.records if record.msg == "a background task has ended"]
    assert (said.levelno, said.task) == (logging.ERROR, task)  # type: ignore[attr-defined]
    assert bool(said.exc_info and said.exc_info[0]) == (end == "fails")


PARTS = ("_publisher.close", "_consumer.close", "_tokens.aclose", "_close_registry")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("stuck", [True, False], ids=["stuck", "failing"])
@travelling
async def test_a_part_that_cannot_be_closed_does_not_keep_the_process(
    part: str, *, stuck: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged, and everything else is closed."""
    corridor = Corridor()
    closed: list[str] = []

    def replace(each: str) -> None:
        owner, _, name = f"service.{each}".rpartition(".")
        holder = operator.attrgetter(owner)(corridor)

        async def close() -> None:
            closed.append(each)
            if each == part:
                await asyncio.sleep(1e6 if stuck else 0)
                raise KeyError("text")

        monkeypatch.setattr(holder, name, close)

    # Otherwise one object with the consumer.
    monkeypatch.setattr(corridor.service, "_publisher", copy.copy(corridor.link))
    for each in PARTS:
        replace(each)
    async with corridor.serving():
        await passes(1)
        began = loop().time()
    assert loop().time() - began < 10
    assert sorted(closed) == sorted(PARTS)
    (said,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert said.msg == "a part of the service could not be closed"


ANSWERS = st.sampled_from(
    [
        registered(),
        registered(),
        registered(),
        refused(409, -32509),
        refused(400, -32602),
        refused(401, -32501),
        refused(403, -32503),
        refused(404, -32601),
        refused(422, -32422, {"terms_violation_labels": ["expired"]}),
        refused(422, -32700, "Journeys cannot happen in the future"),
        refused(429, 429, Retry_After="7"),
        unavailable(),
        httpx.ReadError("x"),
        httpx.ConnectError("x"),
    ]
)
TROUBLES = st.lists(
    st.tuples(
        st.floats(0.0, 400.0),
        st.sampled_from(["lose", "nacked", "returned", "connection", "unencodable", "publish", "slow"]),
    ),
    max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(
    answers=st.lists(ANSWERS, min_size=1, max_size=40),
    troubles=TROUBLES,
    early=st.floats(-3600, 900),
    stop_after=st.floats(0, 1500),
)
def test_nothing_is_ever_lost(
    answers: list[Any], troubles: list[tuple[float, str]], early: float, stop_after: float
) -> None:
    """Whatever the Registry answers and the broker does, and whenever it is stopped: all is accounted for."""

    @travelling
    async def run() -> None:
        corridor = Corridor(*answers, registered(), hold_limit_seconds=50.0, retry_max_attempts=6)
        corridor.link._prefetch = 8
        published = 10
        async with corridor.serving():
            publish(corridor, 9)
            corridor.link.put(samples.encode(corridor.payload(9, ends_in_seconds=early)))
            began = loop().time()
            for at, trouble in sorted(troubles):
                await passes(max(0.0, began + min(at, stop_after) - loop().time()))
                match trouble:
                    case "lose":
                        corridor.link.lose()
                    case "publish":
                        publish(corridor, 3, first=published)
                        published += 3
                    case "slow":
                        corridor.link.confirm_after_seconds = 3.0
                    case failure:
                        corridor.link.publish_failures.append(failure)
            await passes(max(0.0, began + stop_after - loop().time()))
        duplicates = len(corridor.link.submitted) - _settled_by_publishing(corridor)
        queues = {name: len(held) for name, held in corridor.link.queues.items() if held}
        gone = sum(
            corridor.value("journeys_total", outcome=outcome)
            for outcome in ("registered", "already_registered")
        )
        accounted = gone + sum(queues.values())
        assert published <= accounted <= published + duplicates, (gone, queues)

    run()


def _settled_by_publishing(corridor: Corridor) -> int:
    return sum(line["outcome"] not in ("registered", "already_registered") for line in corridor.settled())


@travelling
async def test_a_delivery_that_cannot_be_settled_stays_with_the_broker(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our mistake while settling is said, stops nothing, and the message comes again."""
    corridor = Corridor()
    whole = corridor.settler.settle
    failures = iter([KeyError("a value")])

    async def broken(*arguments: Any) -> bool:
        for failure in failures:
            raise failure
        return await whole(*arguments)

    monkeypatch.setattr(corridor.settler, "settle", broken)
    async with corridor.serving():
        publish(corridor, 2)
        await passes(1)
        assert corridor.value("journeys_total", outcome="registered") == 1
        assert [r.getMessage() for r in caplog.records if r.exc_info] == [
            "a delivery could not be settled; it stays with the broker"
        ]
        corridor.link.lose()
        await passes(1)
    corridor.balance(2)


@travelling
async def test_a_dead_letter_without_a_confirm_is_still_pending() -> None:
    """Until it is settled its start counts for JourneysDeadlineAtRisk: nothing about it is safe yet."""
    corridor = Corridor(refused(400, -32602))
    corridor.link.confirm_after_seconds = 3600.0
    async with corridor.serving():
        publish(corridor, 1)
        await passes(1800)
        assert corridor.value("dead_lettered_total", reason="rejected") == 0
        assert corridor.value("in_flight") == 1
        assert corridor.value("held") == 0
        assert corridor.value("oldest_pending_start_timestamp_seconds") > 0
        await passes(1900)
        assert corridor.value("oldest_pending_start_timestamp_seconds") == 0
    corridor.balance(1)


@travelling
async def test_lost_log_lines_are_counted() -> None:
    """A full disk, or a pipe whose reader is gone, costs lines and stops no journey."""
    corridor = Corridor()
    corridor.log.close()
    async with corridor.serving():
        publish(corridor, 300)
        await passes(2)
        assert corridor.value("journeys_total", outcome="registered") == 300
        assert corridor.output.flush(30)  # their thread lives in real time
        assert corridor.output.lost_lines == 300
        await passes(2)
        assert corridor.value("log_lines_lost_total") == 300
