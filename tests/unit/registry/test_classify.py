"""What each answer of the Registry means, and that nothing of its text gets out."""

import json
import re
import string
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from consumer.core.outcome import (
    AlreadyRegistered,
    Early,
    Expired,
    Forbidden,
    Misconfigured,
    Outcome,
    Proof,
    Registered,
    Rejected,
    Throttled,
    Unauthorized,
    Unavailable,
)
from consumer.core.reply import Fault, FaultKind, RateLimit, Reply
from consumer.registry.classify import _BY_CLASS, _BY_STATUS, classify, classify_status
from consumer.registry.rate_limit_headers import rate_limit, retry_after

ANSWERS = Path(__file__).parents[2] / "samples" / "answers"
CREATED = "2026-11-23T15:57:33.665Z"

MEANING: dict[str, Outcome] = {
    "accepted-2023/200": Registered(200, CREATED),
    "accepted-2023-v3/200": Registered(200, CREATED),
    "accepted-2025/201": Registered(201, CREATED),
    "accepted-specification-v2/201": Registered(201, CREATED),
    "accepted-without-time/201": Registered(201, None),
    "again-2023/409": AlreadyRegistered(409),
    "again-2025/409": AlreadyRegistered(409),
    "again-without-body/409": Unavailable("foreign_409", 409),
    "conflict-inside-200/200": AlreadyRegistered(200),
    "invalid-2023/500": Rejected(500, "-32000 at operator_class"),
    "invalid-2023-phone/500": Rejected(500, "-32000 at driver.identity.phone"),
    "invalid-2023-root/500": Rejected(500, "-32000"),
    "invalid-2025/400": Rejected(400, "-32602 at driver.identity.phone_trunc"),
    "invalid-2025-list/400": Rejected(400, "-32602 at incentives.1.siret"),
    "invalid-2025-root/400": Rejected(400, "-32602"),
    "no-journey-id-2023/500": Rejected(500, "-32000 at journey_id"),
    "no-phone-2025/400": Rejected(400, "-32600"),
    "bad-request-without-body/400": Unavailable("foreign_400", 400),
    "no-client-certificate/400": Unavailable("no_client_certificate", 400),
    "early-2023/422": Early(422),
    "early-2025/422": Early(422),
    "parse-error/422": Rejected(422, "-32700"),
    "terms-expired/422": Expired(422, "-32422 expired"),
    "terms-expired-and-short/422": Expired(422, "-32422 expired"),
    "terms-one-label/422": Expired(422, "-32422 expired"),
    "terms-too-short/422": Rejected(422, "-32422 distance_too_short"),
    "terms-two-others/422": Rejected(422, "-32422 too_many_trips_by_day,too_close_trips"),
    "terms-unknown/422": Rejected(422, "-32422"),
    "terms-without-labels/422": Rejected(422, "-32422"),
    "token-missing-2023/403": Forbidden(403, "-32503"),
    "forbidden-specification/403": Forbidden(403, "403"),
    "token-revoked-2023/401": Unauthorized(401, "401"),
    "token-revoked-2025/401": Unauthorized(401, "-32501"),
    "token-revoked-specification/401": Unauthorized(401, "401"),
    "token-malformed-2023/500": Unauthorized(500, "JsonWebTokenError"),
    "token-wrongly-signed-2023/500": Unauthorized(500, "JsonWebTokenError"),
    "malformed-json-2023/500": Rejected(500, "SyntaxError"),
    "too-large-2023/500": Rejected(500, "PayloadTooLargeError"),
    "too-large-proxy/413": Unavailable("foreign_413", 413),
    "throttled-2023/429": Throttled(60.0),
    "throttled-2023-body-only/429": Throttled(40.0),
    "throttled-2025/429": Throttled(27.0),
    "throttled-with-date/429": Unavailable("foreign_429", 429, retry_after_seconds=30.0),
    "throttled-without-headers/429": Unavailable("foreign_429", 429),
    "maintenance/503": Unavailable("503", 503),
    "timeout-2023/408": Unavailable("-32408", 408),
    "internal-error/500": Unavailable("-32603", 500),
    "database-down/500": Unavailable("-32000", 500),
    "bad-gateway/502": Unavailable("http_502", 502),
    "unknown-route-2023/404": Misconfigured(404, "http_404"),
    "unknown-version-2025/404": Misconfigured(404, "http_404"),
    "unknown-version-2023/500": Misconfigured(500, "unknown_api_version"),
    "method-not-found/405": Misconfigured(405, "-32601"),
    "redirect/302": Misconfigured(302, "http_302"),
    "login-page/200": Unavailable("no_result", 200),
    "empty-success/204": Unavailable("no_result", 204),
    "unauthorized-inside-502/502": Unauthorized(502, "401"),
    "error-inside-200/200": Unavailable("-32000", 200),
}


def recorded(case: str) -> Reply:
    """Read one recorded answer."""
    sample = json.loads((ANSWERS / f"{case}.json").read_text())
    body = sample["body"] if isinstance(sample["body"], str) else json.dumps(sample["body"])
    return Reply(int(case.rpartition("/")[2]), sample["headers"], body.encode())


def error(status: int, **members: object) -> Reply:
    """Make a JSON-RPC error."""
    return Reply(status, {}, json.dumps({"id": 1, "jsonrpc": "2.0", "error": members}).encode())


def test_every_recorded_answer_has_a_meaning() -> None:
    """The files and the table are the same set, so that no recorded answer goes unread."""
    files = {str(path.relative_to(ANSWERS).with_suffix("")) for path in ANSWERS.glob("*/*.json")}
    assert files == MEANING.keys()


@pytest.mark.parametrize("case", MEANING)
def test_recorded_answer(case: str) -> None:
    """Each recorded answer means what the table says."""
    assert classify(recorded(case)) == MEANING[case]


@pytest.mark.parametrize("kind", FaultKind)
def test_fault(kind: FaultKind) -> None:
    """A fault is unavailability; the outcome names the exception's class."""
    assert classify(Fault(kind, "SomeError")) == Unavailable(kind.value, None, exception="SomeError")
    assert classify(Fault(kind)) == Unavailable(kind.value)


def test_what_is_no_answer_is_refused() -> None:
    """What the type checker would refuse stops the program instead of falling through."""
    with pytest.raises(AssertionError):
        classify(None)  # type: ignore[arg-type]


MISCONFIGURED_STATUSES = {
    402, 404, 405, 406, 407, 410, 411, 412, 414, 415, 417, 421, 426, 428, 431, 451,
}  # fmt: skip


@pytest.mark.parametrize("status", range(600))
def test_bare_status(status: int) -> None:
    """Every status without a body has one meaning, and none of them judges a journey or a token."""
    outcome = classify(Reply(status))
    match status:
        case 408 | 423 | 424 | 425:
            expected: Outcome = Unavailable(f"http_{status}", status)
        case _ if status in MISCONFIGURED_STATUSES or 300 <= status < 400:
            expected = Misconfigured(status, f"http_{status}")
        case _ if 400 <= status < 500:
            expected = Unavailable(f"foreign_{status}", status)
        case _ if 200 <= status < 300:
            expected = Unavailable("no_result", status)
        case _:
            expected = Unavailable(f"http_{status}", status)
    assert outcome == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (error(401, code=-32000, data="data/driver must be object"), Unauthorized(401, "-32000")),
        (error(404, code=500, message="whatever"), Misconfigured(404, "500")),
        (error(500, code=401), Unauthorized(500, "401")),
        (error(503, code=429), Throttled(None)),
        (error(500, code=True, data="x"), Unavailable("http_500", 500)),
        (error(500, code="401"), Unavailable("http_500", 500)),
        (error(500, code=12345678901, data=[7]), Unavailable("http_500", 500)),
        (error(500, code=-32000, data=[]), Unavailable("-32000", 500)),
        (error(500, code=-32000, data="Unknown api version v4"), Misconfigured(500, "unknown_api_version")),
        (error(400, code=-32602, data="data/driver/jean dupont/phone x"), Rejected(400, "-32602 at driver")),
        (error(400, code=-32602, data="data/dupont/phone must"), Rejected(400, "-32602")),
        (error(400, code=-32602, data="/incentives/0612345678: must"), Rejected(400, "-32602 at incentives")),
        (Reply(200, {}, b'{"result": null, "error": null}'), Unavailable("no_result", 200)),
        (Reply(200, {}, b'{"result": {"journey_id": "a", "created_at": 12}}'), Registered(200, None)),
        (Reply(200, {}, b'{"result": {"created_at": "by Jean"}}'), Registered(200, None)),
        (Reply(200, {}, b'["created_at"]'), Unavailable("no_result", 200)),
        (Reply(200, {}, b"\xff\xfe"), Unavailable("no_result", 200)),
        (Reply(200, {}, b"[" * 200_000), Unavailable("no_result", 200)),
        (Reply(200, {}, b"1" * 5_000), Unavailable("no_result", 200)),
    ],
)
def test_unusual_answer(reply: Reply, expected: Outcome) -> None:
    """Codes inside other statuses, wrong types, paths that hold a value, bodies that are no JSON."""
    assert classify(reply) == expected


@pytest.mark.parametrize("status", [400, 401, 403, 409, 413, 418, 422, 429, 460, 494])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><head><title>No</title></head></html>",
        b"Blocked by policy",
        b'{"message": "Forbidden"}',
        b'{"error": "Not Found", "path": "/v2/journeys"}',
        b'["error"]',
    ],
)
def test_what_a_gateway_answers_judges_nothing(status: int, body: bytes) -> None:
    """Neither the journey nor the token: the answer has none of the Registry's shapes."""
    assert classify(Reply(status, {}, body)) == Unavailable(f"foreign_{status}", status)


@pytest.mark.parametrize(
    ("case", "cut"),
    [
        ("token-revoked-2023/401", 40),
        ("again-2025/409", 30),
        ("throttled-2023/429", 25),
        ("invalid-2025/400", 60),
    ],
)
def test_a_cut_answer_keeps_the_meaning_of_its_status(case: str, cut: int) -> None:
    """The body ended too soon; what it began with is the Registry's."""
    whole = recorded(case)
    assert type(classify(Reply(whole.status, whole.headers, whole.body[:cut]))) is type(MEANING[case])


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('invalid input syntax for type integer: "99.5"', "invalid_syntax"),
        ("invalid input syntax for type json", "invalid_syntax"),
        ('duplicate key value violates unique constraint "x_idx"', "duplicate_key"),
        ("value too long for type character varying(32)", "value_too_long"),
        ("value too long for type character varying(1000)", "value_too_long"),
        ('invalid byte sequence for encoding "UTF8": 0x00', "invalid_encoding"),
        ('malformed array literal: "{}"', "malformed_array"),
        ('value "99999999999" is out of range for type integer', "value_refused"),
        ("integer out of range", "value_refused"),
        ("numeric field overflow", "value_refused"),
        ('new row for relation "x" violates check constraint "y"', "value_refused"),
    ],
)
def test_what_the_database_cannot_store_is_rejected(message: str, code: str) -> None:
    """The text of PostgreSQL says that this journey is the cause; in 2023 it is data of the generic error."""
    assert classify(error(500, message=message)) == Rejected(500, code)
    assert classify(error(500, code=-32000, message="Server error", data=message)) == Rejected(500, code)


@pytest.mark.parametrize(
    "message",
    [
        "connection terminated unexpectedly",
        "remaining connection slots are reserved",
        "deadlock detected",
        "",
    ],
)
def test_other_errors_of_the_database_are_no_refusals(message: str) -> None:
    """They say nothing about the journey."""
    assert classify(error(500, message=message)) == Unavailable("http_500", 500)
    assert classify(error(500, code=-32000, data=message)) == Unavailable("-32000", 500)


@pytest.mark.parametrize(
    "name",
    ["JWSInvalid", "JWSSignatureVerificationFailed", "JWKSNoMatchingKey", "JWTExpired", "JOSENotSupported"],
)
def test_jose_names_its_errors(name: str) -> None:
    """The 2025 server passes the class of the library's error on; the family counts, not a list."""
    assert classify(error(500, code=500, data=name)) == Unauthorized(500, name)
    assert classify(error(500, code=500, data="JWKSTimeout")) == Unavailable("500", 500)


def test_the_tables_reach_no_status_twice() -> None:
    """A class rule only serves statuses without a row of their own."""
    assert set(_BY_CLASS) == {2, 3, 4, 5}
    assert all(status // 100 in (4, 5) for status in _BY_STATUS)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "result", "data", "code", "message", "created_at"])
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
codes = st.sampled_from(
    [
        -32000,
        -32408,
        -32422,
        -32501,
        -32503,
        -32509,
        -32600,
        -32601,
        -32602,
        -32603,
        -32700,
        401,
        404,
        429,
        500,
    ]
)
PERSON = "Zoé Dupont 0612345678"  # as it could stand in any text
texts = st.sampled_from(
    [
        f"data/{PERSON} must be string",
        f"data/driver/identity/{PERSON}: must",
        f"/driver/identity/phone: {PERSON}",
        f"data must {PERSON}",
        f'null value in column "{PERSON}" violates not-null constraint',
        f"Journeys cannot happen in the future {PERSON}",
        f"Unknown api version {PERSON}",
        PERSON,
        "JsonWebTokenError",
    ]
)
errors = st.fixed_dictionaries(
    {},
    optional={
        "code": codes | json_values,
        "message": texts | json_values,
        "data": texts
        | st.lists(texts, max_size=2)
        | st.fixed_dictionaries({"terms_violation_labels": json_values})
        | json_values,
    },
)
bodies = st.one_of(
    st.binary(max_size=60),
    st.builds(lambda e, r: json.dumps({"error": e, "result": r}).encode(), errors | texts, json_values),
    st.builds(lambda v: json.dumps(v).encode(), json_values),
)
header_values = (
    st.sampled_from(
        [
            *("0", "60", "-1", "nan", "inf", "1e400", "", " ", "1795449480", "9" * 40),
            *(
                "Mon, 23 Nov 2026 15:57:33 GMT",
                "Xxx, 99 Foo 2026 15:57:33 GMT",
                "Mon, 23 Nov 2026 25:57:33 GMT",
            ),
        ]
    )
    | st.text(max_size=12)
    | st.integers().map(str)
)
headers = st.dictionaries(
    st.sampled_from(
        ["retry-after", "date"]
        + [f"{x}ratelimit-{y}" for x in ("", "x-") for y in ("limit", "remaining", "reset")]
    ),
    header_values,
)
replies = st.builds(Reply, st.integers(-5, 1000) | st.just(429), headers, bodies)

SAFE_DETAIL = re.compile(
    r"(-32[0-9]{3}|[45][0-9]{2}|(http|foreign)_-?[0-9]{1,4}|no_result|unknown_api_version"
    r"|value_too_long|invalid_syntax|invalid_encoding|duplicate_key|malformed_array|value_refused|null_value"
    r"|JsonWebTokenError|SyntaxError|PayloadTooLargeError|TokenExpiredError|NotBeforeError)"
    r"( at [a-z_0-9]+(\.([a-z_0-9]+))*| expired"
    r"| (distance_too_short|too_many_trips_by_day|too_close_trips)(,[a-z_]+)*)?"
)


@given(replies)
@example(Reply(429, {}, b'{"error": {"resetTime": "0001-01-01T00:00:00"}}'))
def test_any_answer(reply: Reply) -> None:
    """Whatever comes back, there is an outcome, and no word of the answer is in its detail."""
    outcome = classify(reply)
    if isinstance(outcome, AlreadyRegistered):
        assert outcome.detail == ""  # only its status says more
        return
    detail = getattr(outcome, "detail", "http_200")
    assert SAFE_DETAIL.fullmatch(detail), detail
    if isinstance(outcome, Registered):
        assert 200 <= reply.status < 300
        assert outcome.created_at is None or not set(outcome.created_at) & set(string.ascii_lowercase)
    if isinstance(outcome, Throttled) and outcome.retry_after_seconds is not None:
        assert 1 <= outcome.retry_after_seconds <= 3600


@given(replies, st.floats(0, 4e9))
def test_any_rate_limit(reply: Reply, now: float) -> None:
    """Garbage in the headers reads as nothing told; what is told is within bounds."""
    seen = rate_limit(reply, now)
    if seen is not None:
        assert seen.remaining >= 0
        assert 0 <= seen.reset_in_seconds <= 3600
        assert seen.limit is None or seen.limit >= 0


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "0"}, 1.0),
        ({"retry-after": "7.5"}, 7.5),
        ({"retry-after": "3601"}, 3600.0),  # never sooner than a shorter wait
        ({"retry-after": "86400000"}, 3600.0),
        ({"retry-after": "soon", "ratelimit-reset": "12"}, 12.0),
        ({"retry-after": "Mon, 23 Nov 2026 15:58:03 GMT"}, None),
        ({"retry-after": "Monday, 23-Nov-26 15:58:03 GMT", "date": "Mon, 23 Nov 2026 15:57:33 GMT"}, 30.0),
        ({"retry-after": "Mon Nov 23 15:58:03 2026", "date": "Mon Nov 23 15:57:33 2026"}, 30.0),
        ({"retry-after": "Tue Dec  1 15:58:03 2026", "date": "Tue Dec  1 15:57:33 2026"}, 30.0),
        ({"retry-after": "3, 120"}, 120.0),
        ({"retry-after": "120,3, soon"}, 120.0),
        (
            {
                "retry-after": "5, Mon, 23 Nov 2026 15:58:03 GMT, Monday, 23-Nov-26 15:58:13 GMT",
                "date": "Mon, 23 Nov 2026 15:57:33 GMT",
            },
            40.0,
        ),
        ({"retry-after": "Xxx, 99 Foo 2026 15:58:03 GMT", "date": "Mon, 23 Nov 2026 15:57:33 GMT"}, None),
        ({"x-ratelimit-reset": "1795449480", "date": "Mon, 23 Nov 2026 15:57:33 GMT"}, 27.0),
        ({"x-ratelimit-reset": "1795449480"}, None),
        ({"x-ratelimit-reset": "1795449400", "date": "Mon, 23 Nov 2026 15:57:33 GMT"}, 1.0),
    ],
)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    """Seconds, a date or a reset, read against the answer's own clock; absurd ones are not told."""
    assert classify(Reply(429, headers, b'{"error": {"code": 429}}')) == Throttled(expected)


@given(
    status=st.sampled_from([429, 503]),
    one=st.integers(0, 10**15),
    other=st.integers(0, 10**15),
    dated=st.booleans(),
)
@example(status=429, one=3600, other=3601, dated=False)
@example(status=503, one=10**12, other=10**400, dated=False)
def test_a_longer_wait_is_never_sooner(*, status: int, one: int, other: int, dated: bool) -> None:
    """However long, and whether it comes as seconds or as a date."""

    def wait(seconds: int) -> float:
        headers = {"retry-after": str(seconds), "date": "Mon, 23 Nov 2026 15:57:33 GMT"}
        if dated:
            then = datetime(2026, 11, 23, 15, 57, 33, tzinfo=UTC) + timedelta(seconds=min(seconds, 10**10))
            headers["retry-after"] = format_datetime(then, usegmt=True)
        read = retry_after(Reply(status, headers, b""))
        assert read is not None
        return read

    shorter, longer = sorted((one, other))
    assert 1 <= wait(shorter) <= wait(longer) <= 3600


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("accepted-2025/201", RateLimit(20000, 19876, 27.0)),
        ("accepted-2023/200", RateLimit(20000, 19876, 27.0)),
        ("throttled-2025/429", RateLimit(20000, 0, 27.0)),
        ("throttled-2023-body-only/429", RateLimit(5, 0, 40.0)),
        ("throttled-without-headers/429", None),
        ("unknown-version-2025/404", None),
    ],
)
def test_rate_limit(case: str, expected: RateLimit | None) -> None:
    """The budget is read from the headers of either server, or from the body of a 429."""
    assert rate_limit(recorded(case), now_epoch=0.0) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-ratelimit-remaining": "5", "x-ratelimit-reset": "1000"}, RateLimit(None, 5, 10.0)),
        ({"x-ratelimit-remaining": "5", "x-ratelimit-reset": "900"}, RateLimit(None, 5, 0.0)),
        ({"x-ratelimit-remaining": "5", "x-ratelimit-reset": "99000"}, None),
        ({"ratelimit-remaining": "5"}, None),
        ({"ratelimit-remaining": "-5", "ratelimit-reset": "10"}, None),
        ({"ratelimit-remaining": "5", "ratelimit-reset": "1795449480"}, None),
    ],
)
def test_rate_limit_without_date(headers: dict[str, str], expected: RateLimit | None) -> None:
    """An absolute reset without ``Date`` is read against our clock; what is absurd is dropped."""
    assert rate_limit(Reply(201, headers), now_epoch=990.0) == expected


def test_reset_time_without_a_zone_is_utc() -> None:
    """The body's ``resetTime`` is read as UTC when it names no zone."""
    body = b'{"error": {"code": 429, "remaining": 0, "resetTime": "1970-01-01T00:01:00"}}'
    assert rate_limit(Reply(429, {}, body), now_epoch=50.0) == RateLimit(None, 0, 10.0)


def test_a_proxy_that_wants_credentials_is_a_misconfiguration() -> None:
    """Nothing else that a proxy answers to CONNECT says anything about us."""
    assert classify(Fault(FaultKind.PROXY, "407")) == Misconfigured(407, "proxy_407")
    for detail in ("403", "502", "ProxyError"):
        assert classify(Fault(FaultKind.PROXY, detail)) == Unavailable("proxy", exception=detail)


STATUS_MEANING: dict[str, Outcome] = {
    "status-pending/200": AlreadyRegistered(200, Proof.VERIFIED, "pending"),
    "status-ok/200": AlreadyRegistered(200, Proof.VERIFIED, "ok"),
    "status-canceled/200": AlreadyRegistered(200, Proof.VERIFIED, "canceled"),
    "status-unknown/200": Unavailable("status_unknown", 200),
    "status-expired/200": Expired(200, "terms_violation_error expired"),
    "status-too-short/200": Rejected(200, "terms_violation_error distance_too_short"),
    "status-anomaly/200": Rejected(200, "anomaly_error temporal_overlap_anomaly"),
    "status-fraud/200": Rejected(200, "fraud_error interoperator_overlap"),
    "status-not-found/404": Unavailable("not_stored", 404),
}


def test_each_recorded_status_answer_has_its_meaning() -> None:
    """Every file has a row, every row a file."""
    folder = ANSWERS.parent / "answers-of-status"
    found = {}
    for path in folder.glob("*/*.json"):
        kept = json.loads(path.read_text("utf-8"))
        reply = Reply(int(path.stem), kept["headers"], json.dumps(kept["body"]).encode())
        found[f"{path.parent.name}/{path.stem}"] = classify_status(reply)
    assert found == STATUS_MEANING


@given(
    body=st.binary()
    | st.recursive(st.none() | st.text(), st.lists).map(
        lambda value: json.dumps({"status": "fraud_error", "fraud_error_labels": value}).encode()
    ),
    status=st.sampled_from([200, 201, 204, 301, 401, 403, 404, 429, 500, 503]),
)
def test_no_status_answer_raises(body: bytes, status: int) -> None:
    """Whatever stands in for the Registry; and success is never made of nothing."""
    assert not isinstance(classify_status(Reply(status, {}, body)), AlreadyRegistered)
