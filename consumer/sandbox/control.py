"""The control routes of the sandbox, under ``/_sandbox/``: show its state, set faults, reset.

Knows the routes and their answers; no HTTP server. It shows ids, digests, names and counts: never a value
of a payload, never a token.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from consumer.sandbox.answers import Answer
from consumer.sandbox.faults import Faults
from consumer.sandbox.rules import Rules
from consumer.sandbox.state import JourneyStatus, Traffic

_TOKEN_KEYS = ("add_token", "revoke_token", "revoked_tokens")
_RECENT = 1_000


class Control:
    def __init__(self, rules: Rules, faults: Faults, traffic: Traffic) -> None:
        self._rules = rules
        self._faults = faults
        self._traffic = traffic

    def answer(  # noqa: PLR0911 -- one return for each route
        self, method: str, path: str, query: Mapping[str, str], body: bytes | None
    ) -> Answer:
        """Answer one control request; 400 says what is wrong with it and changes nothing."""
        try:
            match (method, path.removeprefix("/_sandbox").strip("/")):
                case ("GET", "state"):
                    return _json(self._state())
                case ("GET", "journeys"):
                    return _json(self._journeys(query.get("journey_id")))
                case ("POST", "journeys"):
                    self._mark(_object(body))
                    return _json(self._journeys(None))
                case ("GET", "faults"):
                    return _json(self._in_force())
                case ("POST", "faults"):
                    self._set(_object(body))
                    return _json(self._in_force())
                case ("POST", "reset"):
                    self._reset()
                    return _json(self._in_force())
        except ValueError as error:
            return _json({"error": str(error)}, 400)
        return _json({"error": "no such control route"}, 404)

    def _reset(self) -> None:
        """Forget journeys, traffic, limits and faults; tokens are those of the start."""
        self._rules.reset()
        self._faults.clear()
        self._traffic.reset()

    def _mark(self, settings: dict[str, Any]) -> None:
        """Give a remembered journey another status."""
        if settings.keys() != {"journey_id", "status"}:
            raise ValueError("the body must hold exactly journey_id and status")
        journey = self._rules.find(str(settings["journey_id"]))
        if journey is None:
            raise ValueError("journey_id: no such journey")
        if settings["status"] not in list(JourneyStatus):
            raise ValueError(f"status: must be one of {', '.join(JourneyStatus)}")
        journey.status = JourneyStatus(settings["status"])

    def _set(self, settings: dict[str, Any]) -> None:
        count = settings.pop("count", None)
        added, revoked, listed = (settings.pop(key, None) for key in _TOKEN_KEYS)
        if not all(isinstance(each, str | None) for each in (added, revoked)):
            raise ValueError("add_token, revoke_token: must be a token")
        if not isinstance(listed, list | None) or not all(isinstance(each, str) for each in listed or ()):
            raise ValueError("revoked_tokens: must be a list of tokens or names")
        tokens = self._rules.tokens
        try:
            for each in [*(listed or ()), *([revoked] if revoked is not None else ())]:
                tokens.find(each)
        except KeyError:
            raise ValueError("no such token") from None
        if settings or count is not None:
            self._faults.apply(settings, count=count)
        if listed is not None:
            tokens.revoke_exactly(listed)
        if revoked is not None:
            tokens.revoke(revoked)
        if added is not None:
            tokens.accept(added)

    def _in_force(self) -> dict[str, Any]:
        return {"faults": asdict(self._faults), "tokens": self._rules.tokens.states()}

    def _state(self) -> dict[str, Any]:
        traffic, registered = self._traffic, self._rules.registered
        return {
            "profile": self._rules.settings.profile.value,
            "now": self._rules.clock().isoformat(),
            "journeys": {
                "registered": len(registered),
                "violating": len(self._rules.violating),
                "by_status": Counter(each.status.value for each in registered.values()),
                "by_id": {key: each.status.value for key, each in registered.items()},
            },
            "requests": {
                "total": sum(traffic.by_status.values()),
                "by_status": {
                    str(status or "cut"): number for status, number in sorted(traffic.by_status.items())
                },
                "in_flight": traffic.in_flight,
                "most_in_flight": traffic.most_in_flight,
                "recent": [each._asdict() for each in list(traffic.requests)[-_RECENT:]],
            },
            **self._in_force(),
        }

    def _journeys(self, journey_id: str | None) -> dict[str, Any]:
        remembered = {"journeys": self._rules.registered, "violating": self._rules.violating}
        return {
            name: [asdict(each) for each in journeys.values() if journey_id in (None, each.journey_id)]
            for name, journeys in remembered.items()
        }


def _json(content: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(content, indent=2).encode() + b"\n")


def _object(body: bytes | None) -> dict[str, Any]:
    try:
        content = json.loads(body or b"null")
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError("the body must be a JSON object")  # noqa: TRY004 -- one error for all wrong bodies
    return content
