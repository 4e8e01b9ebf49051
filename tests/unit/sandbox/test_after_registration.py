"""What comes after a 201 in 2025: status, list, PATCH, cancellation, and the verdict."""

import json
from typing import Any

import pytest

from consumer.sandbox import Profile

GOOD = {"Authorization": "Bearer good"}
AMENDED = {
    "operator_class": "B",
    "start": {"datetime": "2026-11-23T14:00:00Z", "lat": 48.85, "lon": 2.36},
    "end": {"datetime": "2026-11-23T15:00:00Z", "lat": 48.68, "lon": 2.38},
    "distance": 30_000,
    "incentives": [],
}


async def status(client: Any, journey_id: str = "journey-1") -> dict[str, Any]:
    """What the status route says of a journey."""
    answer = await client.http.get(f"/v3.3/journeys/{journey_id}", headers=GOOD)
    assert answer.status_code == 200
    return dict(answer.json())


async def patch(client: Any, body: Any, journey_id: str = "journey-1") -> Any:
    """The answer to a correction."""
    return await client.http.patch(f"/v3.3/journeys/{journey_id}", json=body, headers=GOOD)


async def cancel(client: Any, body: Any, journey_id: str = "journey-1") -> Any:
    """The answer to a cancellation."""
    return await client.http.post(f"/v3.3/journeys/{journey_id}/cancel", json=body, headers=GOOD)


async def listed(client: Any, query: str) -> list[str]:
    """The ids of a list."""
    answer = await client.http.get(f"/v3.3/journeys?{query}", headers=GOOD)
    assert answer.status_code == 200
    return [each["operator_journey_id"] for each in answer.json()]


async def test_a_registered_journey_is_pending(serve: Any, v3: Any) -> None:
    """Nothing is decided yet, and every field is there."""
    client = await serve()
    await client.post(v3())
    found = await status(client)
    assert found.pop("journey_id").isdecimal()
    assert found == {
        "status": "pending",
        "operator_journey_id": "journey-1",
        "created_at": "2026-11-23T16:00:00.000Z",
        "fraud_error_labels": [],
        "anomaly_error_details": [],
        "terms_violation_details": [],
    }


async def test_an_id_may_hold_any_character(serve: Any, v3: Any) -> None:
    """Quoted in the path, slashes included."""
    client = await serve()
    await client.post(v3("a/b \u00e9?"))
    assert (await status(client, "a%2Fb%20%C3%A9%3F"))["operator_journey_id"] == "a/b \u00e9?"


async def test_a_refused_journey_tells_why(serve: Any, v3: Any) -> None:
    """What a 409 hides is in its status."""
    client = await serve()
    await client.post(v3(distance=1))
    found = await status(client)
    assert (found["status"], found["terms_violation_details"]) == (
        "terms_violation_error",
        ["distance_too_short"],
    )


async def test_a_control_route_sets_the_verdict(serve: Any, v3: Any) -> None:
    """With labels, and the journey that it collides with."""
    client = await serve()
    await client.post(v3())
    await client.control("journeys", {"journey_id": "journey-1", "status": "fraud_error", "labels": ["a"]})
    found = await status(client)
    assert (found["status"], found["fraud_error_labels"]) == ("fraud_error", ["a"])
    anomaly = {"journey_id": "journey-1", "status": "anomaly_error", "labels": ["b"]}
    await client.control("journeys", anomaly)
    found = await status(client)
    assert (found["anomaly_error_details"], found["fraud_error_labels"]) == (
        [{"label": "b", "metas": {}}],
        [],
    )
    await client.control("journeys", anomaly | {"conflicting_journey_id": "other"})
    assert (await status(client))["anomaly_error_details"] == [
        {"label": "b", "metas": {"conflicting_journey_id": "other", "temporal_overlap_duration_ratio": 1}}
    ]


async def test_time_makes_pending_journeys_ok(serve: Any, clock: Any, v3: Any) -> None:
    """When asked for; other states stay."""
    client = await serve(ok_after_seconds=60)
    await client.post(v3("one"))
    await client.post(v3("two", distance=1))
    clock.advance(59)
    assert await listed(client, "status=pending") == ["one"]
    clock.advance(1)
    assert (await status(client, "one"))["status"] == "ok"
    assert await listed(client, "status=terms_violation_error") == ["two"]


async def test_lists(serve: Any, clock: Any, v3: Any) -> None:
    """By status, latest first, in pages, of a week unless dates are given."""
    client = await serve(terms="off")
    await client.post(v3("old"))
    clock.advance(8 * 86_400)
    for name in ("a", "b", "c"):
        clock.advance(1)
        await client.post(v3(name))
    assert await listed(client, "status=pending") == ["c", "b", "a"]
    assert await listed(client, "status=pending&limit=1&offset=1") == ["b"]
    assert await listed(client, "status=ok") == []
    assert await listed(client, "status=pending&end=2026-11-30T00:00:00Z&start=2026-11-23T00:00:00Z") == [
        "old"
    ]


@pytest.mark.parametrize(
    "query",
    [
        "",
        "status=lost",
        "status=ok&limit=101",
        "status=ok&limit=x",
        "status=ok&offset=-1",
        "status=ok&start=yesterday",
        "status=ok&start=2026-11-24T00:00:00Z",
        "status=ok&end=2026-11-24T00:00:00Z",
        "status=ok&start=2026-08-01T00:00:00Z",
    ],
)
async def test_wrong_lists_are_400(serve: Any, query: str) -> None:
    """A status is needed, dates lie within 90 days and not in the future."""
    client = await serve()
    answer = await client.http.get(f"/v3.3/journeys?{query}", headers=GOOD)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32602)


async def test_a_patch_mends_a_refused_journey(serve: Any, v3: Any) -> None:
    """It is pending and registered from then on; nobody judges the terms again."""
    client = await serve()
    await client.post(v3(distance=1))
    answer = await patch(client, AMENDED | {"distance": 2})
    assert (answer.status_code, answer.content) == (200, b"")
    found = await status(client)
    assert (found["status"], found["terms_violation_details"]) == ("pending", [])
    assert set(client.sandbox.journeys) == {"journey-1"}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, 400),
        ({key: value for key, value in AMENDED.items() if key != "distance"}, 400),
        (AMENDED | {"driver": {}}, 400),
        (AMENDED | {"distance": "1"}, 400),
        (AMENDED | {"operator_trip_id": "a\0"}, 500),
        (AMENDED | {"incentives": [{"index": 0, "siret": "20003019500115", "amount": 0.5}]}, 500),
    ],
)
async def test_a_wrong_patch_changes_nothing(serve: Any, v3: Any, body: Any, code: int) -> None:
    """Validator and database refuse as with a new journey."""
    client = await serve()
    await client.post(v3(distance=1))
    assert (await patch(client, body)).status_code == code
    assert (await status(client))["status"] == "terms_violation_error"


async def test_an_unknown_journey_is_404(serve: Any) -> None:
    """On every route that names one, to a good token."""
    client = await serve()
    not_found = {"code": -32504, "message": "Not found"}
    for answer in (
        await client.http.get("/v3.3/journeys/x", headers=GOOD),
        await patch(client, AMENDED, "x"),
        await cancel(client, {"code": "a"}, "x"),
    ):
        assert (answer.status_code, answer.json()["error"]) == (404, not_found)
    assert (await client.http.get("/v3.3/journeys/x")).status_code == 403
    wrong = {"Authorization": "Bearer wrong"}
    assert (await client.http.get("/v3.3/journeys/x", headers=wrong)).status_code == 500


async def test_a_cancelled_journey_is_a_conflict(serve: Any, v3: Any) -> None:
    """Its id stays taken."""
    client = await serve()
    await client.post(v3())
    answer = await cancel(client, {"code": "fraud-1", "message": "seen"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert (await status(client))["status"] == "canceled"
    assert (await client.post(v3())).status_code == 409


@pytest.mark.parametrize(
    "body",
    [{}, {"code": "a b"}, {"code": "x" * 33}, {"code": "a", "message": "x" * 513}, {"code": "a", "b": 1}],
)
async def test_a_wrong_cancellation_is_400(serve: Any, v3: Any, body: Any) -> None:
    """A code is needed, both have their limits."""
    client = await serve()
    await client.post(v3())
    assert (await cancel(client, body)).status_code == 400
    assert (await status(client))["status"] == "pending"


async def test_cancelling_shares_the_bucket_of_posting(serve: Any, v3: Any) -> None:
    """Looking up and mending have one of their own."""
    client = await serve(rate_limit=2, status_limit=3)
    await client.post(v3())
    assert (await cancel(client, {"code": "a"})).status_code == 200
    assert (await cancel(client, {"code": "a"})).status_code == 429
    assert (await client.post(v3())).status_code == 429
    await status(client)
    await listed(client, "status=ok")
    assert (await patch(client, AMENDED)).status_code == 200
    assert (await client.http.get("/v3.3/journeys/journey-1", headers=GOOD)).status_code == 429


async def test_2023_has_none_of_these_routes(serve: Any) -> None:
    """They came later."""
    client = await serve(profile=Profile.Y2023)
    assert (await client.http.get("/v3/journeys/x", headers=GOOD)).status_code == 404
    assert (await client.http.patch("/v3/journeys/x", content=json.dumps(AMENDED))).status_code == 404
