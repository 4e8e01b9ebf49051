"""The demo's account balances when every message is found once, and names each problem otherwise."""

from dataclasses import replace

import pytest

from consumer.demo.account import Evidence, account

GOOD = Evidence(
    published={
        "m1": "a",
        "m2": "b",
        "m3": "a",  # published twice
        "m4": None,  # invalid
        "m5": "c",  # refused with the token, replayed, registered
        "m6": "d",  # still in the queue
        "m7": "e",  # refused with the token
    },
    queued=["m6"],
    dead={"invalid": ["m4"], "unauthorized": ["m7"], "expired": []},
    times_seen={"a": 2, "b": 1, "c": 1},
    outcomes={"registered": 3, "already_registered": 1},
    dead_lettered={"invalid": 1, "unauthorized": 2, "expired": 0},
    replayed={"unauthorized": 1},
)


def test_a_good_run_balances() -> None:
    """Every row agrees, the sums are what was published, and empty reasons have no row."""
    result = account(GOOD)
    assert result.problems == ()
    assert result.balances
    assert result.published == result.found == result.counted == 7
    assert [(row.name, row.found, row.counted) for row in result.rows] == [
        ("registered", 3, 3),
        ("already registered", 1, 1),
        ("invalid", 1, 1),
        ("unauthorized", 1, 1),
        ("still queued", 1, None),
    ]


def test_a_lost_answer_balances() -> None:
    """The Registry has the journey, the answer was lost, the second attempt was a 409: the sum agrees."""
    lost_answer = replace(
        GOOD,
        times_seen={"a": 2, "b": 2, "c": 1},
        outcomes={"registered": 2, "already_registered": 2},
    )
    assert account(lost_answer).balances


def test_a_lost_answer_whose_message_is_still_queued() -> None:
    """The Registry has the journey already, but the service does not know: the message counts once."""
    result = account(replace(GOOD, times_seen={"a": 2, "b": 1, "c": 1, "d": 1}))
    assert result.balances
    assert result.found == result.published


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"queued": []}, "message m6 is missing"),
        ({"dead": {"invalid": [], "unauthorized": ["m7"]}}, "message m4 is missing"),
        ({"times_seen": {"a": 2, "c": 2}}, "message m2 is missing"),
        ({"queued": ["m6", "m4"]}, "message m4 is in 2 places"),
        ({"queued": ["m6", "m9"]}, "message m9 was never published"),
        ({"times_seen": {"a": 2, "b": 1, "c": 1, "z": 1}}, "the Registry has journey z"),
        ({"outcomes": {"registered": 4, "already_registered": 1}}, "the service counted 5"),
        ({"outcomes": {"registered": 2, "already_registered": 1}}, "the service counted 3"),
        ({"dead_lettered": {"invalid": 2, "unauthorized": 2, "expired": 0}}, "dead letters invalid"),
        ({"dead_lettered": {"invalid": 1, "unauthorized": 2, "expired": 1}}, "dead letters expired"),
        ({"replayed": {}}, "1 dead letters unauthorized were found, and the service counted 2"),
        ({"times_seen": {"a": 1, "b": 1, "c": 1}}, "saw 3 valid journeys"),
    ],
)
def test_each_problem_is_named(wrong: dict[str, object], expected: str) -> None:
    """One message lost, doubled, invented or counted wrongly, and the account does not balance."""
    result = account(replace(GOOD, **wrong))  # type: ignore[arg-type]
    assert not result.balances
    assert any(expected in problem for problem in result.problems), result.problems
