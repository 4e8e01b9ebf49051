"""The terms of use, with a clock that only the test moves."""

from typing import Any

import pytest

DAY = 24 * 3600


def _violated(labels: list[str]) -> dict[str, Any]:
    return {
        "id": 1,
        "error": {
            "data": {"terms_violation_labels": labels},
            "code": -32422,
            "message": "Unprocessable Request",
        },
        "jsonrpc": "2.0",
    }


async def test_twenty_four_hours_after_the_start(serve: Any, clock: Any, v3: Any) -> None:
    """A journey is in time up to 24 h after its start, and expired from then on."""
    client = await serve()
    clock.advance(DAY - 2 * 3600)  # the journey started two hours ago
    assert (await client.post(v3("in-time"))).status_code == 201
    clock.advance(0.001)
    answer = await client.post(v3("late"))
    assert (answer.status_code, answer.json()) == (422, _violated(["expired"]))
    assert set(client.sandbox.journeys) == {"in-time"}


async def test_two_thousand_metres(serve: Any, v3: Any) -> None:
    """1,999 m are too short, 2,000 m are not."""
    client = await serve()
    answer = await client.post(v3("short", distance=1_999))
    assert (answer.status_code, answer.json()) == (422, _violated(["distance_too_short"]))
    assert (await client.post(v3(distance=2_000))).status_code == 201


async def test_both_at_once(serve: Any, clock: Any, v3: Any) -> None:
    """The answer lists all labels that apply."""
    client = await serve()
    clock.advance(DAY)
    answer = await client.post(v3(distance=1))
    assert answer.json() == _violated(["expired", "distance_too_short"])


async def test_a_registered_journey_that_comes_late_is_a_conflict(serve: Any, clock: Any, v3: Any) -> None:
    """The id is looked at before the terms: what was registered in time stays registered."""
    client = await serve()
    await client.post(v3())
    clock.advance(2 * DAY)
    assert (await client.post(v3())).status_code == 409


@pytest.mark.parametrize(("terms", "status"), [("v3", 201), ("all", 422), ("off", 201)])
async def test_terms_for_v2_are_a_choice(serve: Any, clock: Any, v2: Any, terms: str, status: int) -> None:
    """The v2 API has no such answer; an operator who tests deadlines with v2 may ask for it."""
    client = await serve(terms=terms)
    clock.advance(2 * DAY)
    assert (await client.post(v2(), "/v2/journeys")).status_code == status


async def test_terms_can_be_off(serve: Any, clock: Any, v3: Any) -> None:
    """Without terms, late and short journeys are registered."""
    client = await serve(terms="off")
    clock.advance(2 * DAY)
    assert (await client.post(v3(distance=1))).status_code == 201


async def test_a_refused_id_is_a_conflict_and_not_registered(serve: Any, v3: Any) -> None:
    """The id is stored before the terms are judged; its status says what the conflict hides."""
    client = await serve()
    assert (await client.post(v3(distance=1))).status_code == 422
    assert (await client.post(v3())).status_code == 409
    assert not client.sandbox.journeys
    remembered = (await client.control("journeys")).json()
    assert [each["status"] for each in remembered["violating"]] == ["terms_violation_error"]
    assert [each["times_seen"] for each in remembered["violating"]] == [2]


async def test_labels_on_demand(serve: Any, v3: Any) -> None:
    """The labels that need a person's other journeys can be asked for."""
    client = await serve()
    client.sandbox.faults.terms_violation_labels = ("too_many_trips_by_day", "too_close_trips")
    answer = await client.post(v3())
    assert (answer.status_code, answer.json()) == (
        422,
        _violated(["too_many_trips_by_day", "too_close_trips"]),
    )
