"""Whose fault is it: one journey's, or everybody's? Answers of every kind, at high rate and at low."""

import json
import logging
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from consumer.publishing import samples
from tests.corridor import Corridor, passes, refused, registered, unavailable
from tests.travel import loop, travelling


def page(status: int) -> httpx.Response:
    """What a gateway, a firewall or a portal answers."""
    return httpx.Response(status, text="<html><body>No.</body></html>")


def database(message: str) -> httpx.Response:
    """The Registry's 500."""
    return httpx.Response(500, json={"jsonrpc": "2.0", "id": 1, "error": {"message": message}})


#: What answers one journey, and the reason of its dead letter.
ANSWERS: dict[str, tuple[httpx.Response | Exception, str]] = {
    "firewall 406": (page(406), "exhausted"),
    "empty 403": (httpx.Response(403), "exhausted"),
    "page 401": (page(401), "exhausted"),
    "page 409": (page(409), "exhausted"),
    "page 429": (page(429), "exhausted"),
    "nginx 400": (page(400), "exhausted"),
    "load balancer 460": (page(460), "exhausted"),
    "nginx 494": (page(494), "exhausted"),
    "nginx 499": (page(499), "exhausted"),
    "cloud 520": (page(520), "exhausted"),
    "empty 404": (httpx.Response(404), "exhausted"),
    "redirect": (httpx.Response(307, headers={"location": "/x"}), "exhausted"),
    "no result": (httpx.Response(200, json={"status": "ok"}), "exhausted"),
    "503 for an hour": (
        httpx.Response(503, json={"code": 503}, headers={"retry-after": "3600"}),
        "exhausted",
    ),
    "unknown 500": (database("something new"), "exhausted"),
    "database refusal": (database('invalid input syntax for type integer: "0.5"'), "rejected"),
    "cut": (httpx.ReadError("cut"), "exhausted"),
    "429": (refused(429, 429, Retry_After="30"), "exhausted"),
    "429 for an hour": (refused(429, 429, Retry_After="3600"), "exhausted"),
    "401": (refused(401, -32501), "unauthorized"),
    "403 of another operator": (refused(403, -32503), "forbidden"),
}
OUTAGES = ["cut", "redirect"]


@pytest.fixture(autouse=True)
def few_ticks(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Days pass here: looking around five times a second would be most of the work."""
    monkeypatch.setattr("consumer.service.lifecycle.TICK_SECONDS", 5.0)
    caplog.set_level(logging.CRITICAL)


def number_of(request: httpx.Request) -> int:
    """Which journey was sent."""
    return int(json.loads(request.content)["operator_journey_id"].removeprefix("journey-"))


def comparing(is_bad: Callable[[int], bool], answer: httpx.Response | Exception, **settings: Any) -> Corridor:
    """Make a service, just started, whose Registry answers some journeys so and takes the others."""

    async def registry(request: httpx.Request) -> httpx.Response:
        if not is_bad(number_of(request)):
            return registered()
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    wanted = {
        "retry_delays_seconds": (60, 300, 900, 3600),
        "breaker_threshold": 10,
        "auth_pause_after": 20,
    }
    return Corridor(registry, proven=False, **wanted | settings)


def publish(corridor: Corridor, numbers: Collection[int]) -> None:
    """Put journeys into the queue."""
    for number in numbers:
        corridor.link.put(samples.encode(corridor.payload(number)), properties={"message_id": f"m-{number}"})


def dead(corridor: Corridor) -> dict[str, set[str]]:
    """Return the ids of the dead letters by reason."""
    reasons = ("invalid", "rejected", "unauthorized", "forbidden", "expired", "exhausted")
    found = {reason: {each.properties["message_id"] for each in corridor.dead(reason)} for reason in reasons}
    return {reason: ids for reason, ids in found.items() if ids}


def count(corridor: Corridor, outcome: str = "registered") -> float:
    """Return how many journeys ended so."""
    return corridor.value("journeys_total", outcome=outcome)


@pytest.mark.parametrize(
    ("name", "bad"),
    [*((name, 3) for name in ANSWERS), ("firewall 406", 0), ("401", 0), ("403 of another operator", 0)],
)
@travelling
async def test_one_bad_journey_ends_and_holds_up_no_other(name: str, bad: int) -> None:
    """Many at once, then one an hour: all others registered within moments, itself before its deadline."""
    answer, reason = ANSWERS[name]
    corridor = comparing(lambda number: number == bad, answer)
    async with corridor.serving():
        publish(corridor, range(200))
        await passes({"429": 120, "429 for an hour": 3 * 3600}.get(name, 10))
        assert count(corridor) == 199
        for number in range(200, 222):
            await passes(3600)
            publish(corridor, [number])
            await passes(20)
            if "429" not in name:
                assert count(corridor) == number
        await passes(3700)
    assert dead(corridor) == {reason: {f"m-{bad}"}}
    assert count(corridor) == 221
    (letter,) = corridor.dead(reason)
    failed = datetime.fromisoformat(letter.headers["x-last-failure"])
    start = datetime.fromisoformat(json.loads(letter.body)["start"]["datetime"])
    assert failed - start < timedelta(hours=23)
    assert len(corridor.sent) < 221 + 80, "the attempts of one journey"
    for cause in ("unavailable", "misconfigured"):
        assert corridor.value("breaker_transitions_total", cause=cause, to="open") == 0


@pytest.mark.parametrize("name", ["firewall 406", "cut", "429", "403 of another operator"])
@travelling
async def test_one_bad_journey_at_one_an_hour(name: str) -> None:
    """Each good one is registered within the hour, and the bad one ends in time."""
    answer, reason = ANSWERS[name]
    corridor = comparing(lambda number: number == 1, answer)
    async with corridor.serving():
        for number in range(27):
            publish(corridor, [number])
            await passes(3600)
            assert count(corridor) == number + (number < 1)
    assert dead(corridor) == {reason: {"m-1"}}


@pytest.mark.parametrize("name", OUTAGES)
@travelling
async def test_when_none_passes_nothing_is_charged(name: str) -> None:
    """Hours in which all fail, then one good journey: nothing dead-lettered, probes are different ones."""
    over = False
    corridor = comparing(lambda number: not over and number < 60, ANSWERS[name][0])
    async with corridor.serving():
        publish(corridor, range(60))
        await passes(3600)
        assert not dead(corridor)
        held = [each for queue in corridor.link.queues.values() for each in queue]
        assert len(held) >= 58
        assert max(each.headers.get("x-attempts", 0) for each in held) <= 3, "charged before it was known"
        probes = [number_of(request) for request in corridor.sent[-120:]]
        assert len(set(probes)) >= 50
        assert max(map(probes.count, probes)) <= 6
        publish(corridor, [60])  # the Registry takes this one, still not the others
        await passes(300)
        assert count(corridor) == 1
        over = True
        await passes(3700)
        assert count(corridor) == 61


@travelling
async def test_two_bad_ones_in_turn_at_low_traffic_with_rare_good_ones() -> None:
    """Two look like an outage until a good one passes; from then on both are charged to their end."""
    corridor = comparing(lambda number: number in (0, 1), page(406))
    async with corridor.serving():
        publish(corridor, [0])
        await passes(1800)
        publish(corridor, [1])
        for number in range(2, 8):
            await passes(4 * 3600)
            assert count(corridor) == number - 2
            publish(corridor, [number])
            await passes(90)
            assert count(corridor) == number - 1
        await passes(3600)
    assert dead(corridor) == {"exhausted": {"m-0", "m-1"}}


@travelling
async def test_restarts_do_not_make_a_bad_journey_new() -> None:
    """What is known of it travels in its headers: each process goes on counting, and it ends in time."""
    link = None
    for process in range(26):
        corridor = comparing(lambda number: number == 0, page(406))
        if link is not None:
            corridor.link.queues = link.queues
        link = corridor.link
        async with corridor.serving():
            for queue in map(corridor.topology.delay_queue, corridor.settings.retry_delays_seconds):
                for _ in list(link.queues[queue]):  # its timer went with the old process
                    link._expire(queue)
            publish(corridor, range(2 * process, 2 * process + 2))
            await passes(3540)
            assert count(corridor) == (2 if process else 1)
        if corridor.dead("exhausted"):
            break
    assert dead(corridor) == {"exhausted": {"m-0"}}
    assert corridor.dead("exhausted")[0].headers["x-attempts"] > 20


@travelling
async def test_a_token_revoked_during_an_outage_costs_no_journey() -> None:
    """The pause goes on under its new cause; what fails in it is put off."""
    corridor = comparing(lambda _number: False, page(502))
    corridor.answers = [unavailable()]
    async with corridor.serving():
        publish(corridor, range(40))
        await passes(1800)
        corridor.answers = [refused(401, -32501)]
        await passes(3 * 3600)
        assert len(corridor.dead("unauthorized")) <= 20
        assert corridor.admission.token_refused
        corridor.answers = [registered()]
        await passes(600)
        assert count(corridor) + len(corridor.dead("unauthorized")) == 40
    assert not corridor.dead("exhausted")


@travelling
async def test_after_a_429_one_goes_first() -> None:
    """While the limit still holds each wait costs one request, and then all are registered."""
    answers = [refused(429, 429, Retry_After="30")]
    corridor = comparing(lambda _number: False, answers[0])
    corridor.admission.proven = True

    async def registry(request: httpx.Request) -> httpx.Response:
        del request
        return refused(429, 429, Retry_After="30") if loop().time() < over else registered()

    over = loop().time() + 200
    corridor.answers = [registry]
    async with corridor.serving():
        publish(corridor, range(50))
        await passes(1)
        at_once = len(corridor.sent)
        await passes(195)
        assert len(corridor.sent) - at_once <= 7
        await passes(60)
    assert count(corridor) == 50
