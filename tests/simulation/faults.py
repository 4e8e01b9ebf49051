"""What a seed draws: the journeys, what answers those that the Registry can never take, and the faults."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from tests.corridor import refused, registered, unavailable

#: Returns an answer or raises what the HTTP client raises; None never answers.
Answer = Callable[[], httpx.Response] | None
HOURS, SPARSE = 3600.0, 0.1


def _html(status: int, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda: httpx.Response(status, text="<html><body>No.</body></html>", headers=named)


def _raise(error: type[Exception]) -> Answer:
    def answer() -> httpx.Response:
        raise error("simulated")

    return answer


def _database(message: str) -> Answer:
    body = {"jsonrpc": "2.0", "id": 1, "error": {"message": message}}
    return lambda: httpx.Response(500, json=body)


def _token(status: int, data: str) -> Answer:
    error = {"code": status, "data": data, "message": "Unauthorized Error"}
    return lambda: httpx.Response(status, json={"error": error})


def terms(label: str) -> httpx.Response:
    """Return the Registry's refusal of a journey that violates its terms."""
    return refused(422, -32422, {"terms_violation_labels": [label]})


#: What answers a journey that the Registry can never take, and the reason of its dead letter.
POISON: dict[str, tuple[Answer, str]] = {
    "unknown 500": (_database("something new"), "exhausted"),
    "empty 500": (lambda: httpx.Response(500), "exhausted"),
    "firewall 406": (_html(406), "exhausted"),
    "firewall 403": (_html(403), "exhausted"),
    "firewall 401": (_html(401), "exhausted"),
    "gateway 413": (_html(413), "exhausted"),
    "gateway 429": (_html(429, Retry_After="3601"), "exhausted"),
    "gateway 503": (_html(503, Retry_After="1800"), "exhausted"),
    "portal 200": (_html(200), "exhausted"),
    "no result 200": (lambda: httpx.Response(200, json={"status": "ok"}), "exhausted"),
    "redirect": (lambda: httpx.Response(302, headers={"location": "/x"}), "exhausted"),
    "not found": (lambda: refused(404, -32601), "exhausted"),
    "empty 404": (lambda: httpx.Response(404), "exhausted"),
    "connection cut": (_raise(httpx.ReadError), "exhausted"),
    "no answer": (None, "exhausted"),
    "refused by the database": (_database('invalid input syntax for type integer: "0.5"'), "rejected"),
    "too long for the database": (_database("value too long for type character varying(32)"), "rejected"),
    "refused by the validator": (lambda: refused(400, -32602, ["/distance: must be integer"]), "rejected"),
    "too short": (lambda: terms("distance_too_short"), "rejected"),
    "token of another": (lambda: refused(403, -32503, "Invalid permissions"), "forbidden"),
    "invalid": (registered, "invalid"),  # never sent
    "not JSON": (registered, "invalid"),
}
#: Those that end only while others pass, which may take its time.
PATIENT = ("exhausted", "forbidden")
#: How everything is answered in an outage.
OUTAGES: dict[str, Answer] = {
    "maintenance": unavailable,
    "maintenance for minutes": _html(503, Retry_After="120"),
    "refused connections": _raise(httpx.ConnectError),
    "cut connections": _raise(httpx.RemoteProtocolError),
    "no answer": None,
    "gateway 502": _html(502),
    "gateway 400": _html(400),
    "firewall 401": _html(401),
    "firewall 403": _html(403),
    "firewall 406": _html(406),
    "firewall 429": _html(429),
    "captive portal": _html(200),
    "no result": lambda: httpx.Response(200, json={"status": "ok"}),
    "redirect": lambda: httpx.Response(302, headers={"location": "/login"}),
    "database down": _database("connection terminated unexpectedly"),
    "wrong route": lambda: httpx.Response(404),
    "wrong page": _html(404),
    "throttled": lambda: refused(429, 429, Retry_After="30"),
    "throttled for an unknown time": lambda: refused(429, 429),
    "throttled for two hours": lambda: refused(429, 429, Retry_After="7200"),
}
#: Those that look like a refused token; the last one is a database that is down.
TOKEN: dict[str, Answer] = {
    "token revoked": lambda: refused(401, -32501, "Unauthorized application"),
    "token malformed": _token(500, "JsonWebTokenError"),
    "token without a key": _token(500, "JWKSNoMatchingKey"),
    "token refused by a database that is down": _token(401, "Error"),
}
#: While these last, good journeys are registered all the same.
PARTIAL = ("slow answers", "lost answers", "some answers fail")
QUEUES = ("full queue", "missing queue", "silent queue")
BROKER = ("connection lost", "broker down", "alarm", "queue deleted")
PROCESS = ("restart", "kill")


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. Times are seconds from the start; ``reason`` names a dead-letter queue."""

    kind: str
    start: float
    seconds: float
    reason: str

    def __str__(self) -> str:
        queue = f" ({self.reason})" if self.kind in QUEUES else ""
        return f"{self.kind}{queue} at {self.start:.1f} for {self.seconds:.0f} s"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a seed draws. ``rate`` is journeys per second, ``day``: bad journeys are followed to their end."""

    journeys: int
    rate: float
    poison_share: float
    kinds: Sequence[str]
    faults: Sequence[Fault]
    confirm_seconds: float
    day: bool

    @property
    def sparse(self) -> bool:
        """Whether a journey can be alone for minutes."""
        return self.rate < SPARSE

    def __str__(self) -> str:
        share = f"{100 * self.poison_share:g} % bad ({', '.join(self.kinds)})"
        head = (
            f"{self.journeys} journeys, {self.rate:g} a second, {share}, confirms in {self.confirm_seconds} s"
        )
        return "\n".join([head, *map(str, self.faults)])


def draw(rng: random.Random) -> Plan:
    """Draw the journeys, their pace, the bad ones among them, and up to six faults that may overlap."""
    journeys, rate = rng.choice([20, 40, 60, 90]), rng.choice([0.0003, 0.001, 0.01, 0.1, 1.0, 50.0, 1e6])
    if rate < SPARSE:
        journeys //= 10
    share = rng.choice([0.0, 0.0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.9, 0.95])
    kinds = rng.sample(sorted(POISON), rng.choice([1, 1, 2, 4, len(POISON)]))
    lengths = [1.0, 30.0, 400.0, 4000.0] if journeys > 10 else [1.0, 400.0, 4000.0, 2.5 * HOURS]
    groups = [
        tuple(OUTAGES),
        tuple(OUTAGES),
        tuple(OUTAGES),
        tuple(TOKEN),
        PARTIAL,
        QUEUES,
        QUEUES,
        BROKER,
        PROCESS,
    ]
    faults, at = [], 0.0
    for _ in range(rng.choice([0, 1, 2, 4, 6])):
        at += rng.choice(
            [0.0, 0.5, rng.uniform(0.0, 60.0), rng.uniform(0.0, 1800.0), rng.uniform(0.0, 3600.0)]
        )
        kind = rng.choice(rng.choice(groups))
        length = rng.choice([400.0, 4000.0, 9000.0] if kind in QUEUES else lengths)
        faults.append(Fault(kind, at, length, POISON[rng.choice(kinds)][1]))
    if rng.random() < 0.1:  # many dead letters at once, of one kind, and nowhere to put them
        journeys, rate, share, kinds = 60, rng.choice([1.0, 50.0]), 0.5, [rng.choice(sorted(POISON))]
        faults.append(Fault(rng.choice(QUEUES), 0.0, 9000.0, POISON[kinds[0]][1]))
    return Plan(
        journeys=journeys,
        rate=rate,
        poison_share=share,
        kinds=kinds,
        faults=faults,
        confirm_seconds=rng.choice([0.0, 0.01, 1.0]),
        day=0.5 < journeys * share < 12 and rng.random() < 0.5,
    )
