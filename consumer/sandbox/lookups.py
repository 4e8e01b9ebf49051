"""What comes after a 201: status, list, PATCH and cancellation of journeys, as the server of 2025 answers.

Takes the parameters of a request, query and body together, and the journeys. Knows no token and no limit.
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import Any

from consumer.sandbox import texts
from consumer.sandbox.answers import Answer, Case, Profile, write
from consumer.sandbox.state import Journeys, JourneyStatus, StoredJourney
from schemas import Journey, Refusal, Version

Validate = Callable[[Version, bytes], Journey | Refusal]

_answer = partial(write, Profile.Y2025, "v3")
_CODE = re.compile(r"[0-9A-Za-z_-]{0,32}")
_MESSAGE_LENGTH = 512
_LISTED_AT_MOST = 100
_PATCH_REQUIRED = ("operator_class", "start", "end", "distance")
_PATCH_FIELDS = {*_PATCH_REQUIRED, "operator_trip_id", "incentives", "incentive_counterparts"}
_PERSON = {"operator_user_id": "u", "identity_key": "0" * 64, "phone": "+33612345678"}
_REST = {  # of a journey of which only a part is sent
    "operator_journey_id": "x",
    "operator_trip_id": "x",
    "incentives": [],
    "driver": {"identity": _PERSON, "revenue": 0},
    "passenger": {"identity": _PERSON, "contribution": 0},
}


def status_of(journey: StoredJourney | None) -> Answer:
    if journey is None:
        return _answer(Case.JOURNEY_UNKNOWN)
    labels = {journey.status: list(journey.labels)}
    anomalies: list[dict[str, Any]] = [
        {"label": label, "metas": {}} for label in labels.get(JourneyStatus.ANOMALY_ERROR, [])
    ]
    if journey.conflicting_journey_id is not None:
        overlap = {
            "conflicting_journey_id": journey.conflicting_journey_id,
            "temporal_overlap_duration_ratio": 1,
        }
        anomalies = [{**each, "metas": overlap} for each in anomalies]
    # An integer of its own at the Registry, as text; here it follows from the id.
    digest = sha256(journey.journey_id.encode(errors="replace")).digest()
    return _json(
        {
            "status": journey.status.value,
            "operator_journey_id": journey.journey_id,
            "journey_id": str(int.from_bytes(digest[:4])),
            "created_at": journey.created_at,
            "fraud_error_labels": labels.get(JourneyStatus.FRAUD_ERROR, []),
            "anomaly_error_details": anomalies,
            "terms_violation_details": labels.get(JourneyStatus.TERMS_VIOLATION_ERROR, []),
        }
    )


def listed(journeys: Journeys, params: Mapping[str, Any], now: datetime) -> Answer:
    """List ids by status, latest first: of a week unless ``start`` and ``end`` say otherwise."""
    query, problems = {name: str(value) for name, value in params.items()}, []
    status = query.get("status", "undefined")
    if status not in list(JourneyStatus):
        problems.append(f"status : Expected one of {', '.join(JourneyStatus)}, but received: {status[:32]}")
    limit, offset = (_whole(query.get(name, default)) for name, default in (("limit", "50"), ("offset", "0")))
    if limit is None or limit > _LISTED_AT_MOST:
        problems.append(f"limit : Expected an integer between 0 and {_LISTED_AT_MOST}")
    if offset is None:
        problems.append("offset : Expected an integer of 0 or more")
    start = _moment(query.get("start"), now - timedelta(days=7))
    end = _moment(query.get("end"), now)
    if start is None or end is None:
        problems.append(f"{'start' if start is None else 'end'} : Expected a date")
    elif start > end:
        problems.append("Start should be before end")
    elif end > now:
        problems.append("End should be before now")
    elif start < now - timedelta(days=90):
        problems.append("Start should be less than 90 days ago")
    if problems or start is None or end is None or limit is None or offset is None:
        return _answer(Case.INVALID, detail=problems)
    found = [
        journey
        for journey in journeys.by_status(status, now)
        if start <= datetime.fromisoformat(journey.created_at) <= end
    ]
    found.sort(key=lambda journey: journey.created_at, reverse=True)
    return _json([{"operator_journey_id": each.journey_id} for each in found[offset : offset + limit]])


def patched(
    journeys: Journeys, journey_id: str, params: Mapping[str, Any], now: datetime, validate: Validate
) -> Answer:
    """Replace parts of a journey, which is pending from then on, whatever was wrong with it."""
    missing = [key for key in _PATCH_REQUIRED if key not in params]
    if missing:
        detail = [f": must have required property '{missing[0]}'"]
        return _answer(Case.INVALID, detail=detail)
    if params.keys() - _PATCH_FIELDS:
        return _answer(Case.INVALID, detail=[": must NOT have additional properties"])
    verdict = validate("v3", json.dumps({**_REST, **params}).encode())
    if isinstance(verdict, Refusal):
        # Whether the dates are in order is asked of new journeys only.
        violations = [each for each in verdict.violations if each.code != "start_after_end"]
        unstorable = texts.database_text(violations, params)
        if violations and unstorable is None:
            return _answer(Case.INVALID, detail=texts.first_error(violations))
        if violations:
            return _answer(Case.UNSTORABLE, detail=unstorable)
    journey = journeys.find(journey_id, now)
    if journey is None:
        return _answer(Case.JOURNEY_UNKNOWN)
    journeys.repair(journey)
    return Answer(200)


def cancelled(journey: StoredJourney | None, params: Mapping[str, Any]) -> Answer:
    code, message = params.get("code"), params.get("message", "")
    detail = None
    if params.keys() - {"code", "message"}:
        detail = ": must NOT have additional properties"
    elif code is None:
        detail = ": must have required property 'code'"
    elif not isinstance(code, str) or not _CODE.fullmatch(code):
        detail = f'/code: must match pattern "^{_CODE.pattern}$"'
    elif not isinstance(message, str) or len(message) > _MESSAGE_LENGTH:
        detail = f"/message: must NOT have more than {_MESSAGE_LENGTH} characters"
    if detail is not None:
        return _answer(Case.INVALID, detail=[detail])
    if journey is None:
        return _answer(Case.JOURNEY_UNKNOWN)
    journey.status = JourneyStatus.CANCELED
    return Answer(200)


def _json(content: Any) -> Answer:
    return Answer(200, json.dumps(content, separators=(",", ":")).encode())


def _whole(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 10 else None  # noqa: PLR2004 -- no larger number counts


def _moment(text: str | None, default: datetime) -> datetime | None:
    if text is None:
        return default
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=default.tzinfo)
