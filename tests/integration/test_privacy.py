"""Personal data stays in the bodies: every payload through every failure, then every output is searched.

Outputs are the log (at DEBUG), /metrics, the probes, and the headers of dead letters and of what waits in
delay queues. What is searched for is every value of a person, in the forms in which it could appear, and
every secret.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import schemas
from consumer.publishing import samples
from consumer.sandbox import Profile
from schemas import Journey, Refusal, Version, Violation
from tests.broker import Broker
from tests.integration.conftest import Run
from tests.ledger import QUEUE, Ledger
from tests.local_registry import LocalRegistry
from tests.service import ServiceProcess
from tests.waiting import wait_until

FIRST_TOKEN, SECOND_TOKEN = "eyJhbGciOiJIUzI1NiJ9.first-secret-claims.sig", "second-secret-token"
PASSWORD, WRONG_PASSWORD = "broker-s3cret-passw0rd", "wr0ng-broker-passw0rd"

DRIVER = {
    "firstname": "Maëlle-Anne",
    "lastname": "Kerguélen",
    "email": "maelle.kerguelen@conductrices.example",
    "company": "Chantiers Kerguélen",
    "phone": {"v2": "02 61 91 47 35", "v3": "+33 (0)6.39.98.47.35"},
    "user": "driver-9f31c2",
    "key": "5f3c" * 16,
    "pass": "12-KERG",
    "lat": 47.218371,
    "lon": -1.553621,
    "literal": "Quai de la Fosse",
}
PASSENGER = {
    "firstname": "Théophraste",
    "lastname": "Longuechaud",
    "email": "theo.longuechaud@passagers.example",
    "company": "Ateliers Longuechaud",
    "phone": {"v2": "+33261912288", "v3": "0639982288"},
    "user": "passenger-77ab10",
    "key": "a17e" * 16,
    "pass": "12-LONG",
    "lat": 48.117266,
    "lon": -1.677793,
    "literal": "Place des Lices",
}
PLATE = "ZZ-934-QK"
#: National numbers, without any prefix: part of every normalised form.
NUMBERS = ("261914735", "639984735", "261912288", "639982288")


def needles() -> Iterator[str]:
    """Every value that may be in no output, in the forms in which it could appear."""
    yield from (FIRST_TOKEN, "first-secret-claims", SECOND_TOKEN, PASSWORD, WRONG_PASSWORD, PLATE)
    yield PLATE.replace("-", "")
    yield from NUMBERS
    for person in (DRIVER, PASSENGER):
        for name, value in person.items():
            for text in value.values() if isinstance(value, dict) else (str(value).removeprefix("-"),):
                yield text
                yield json.dumps(text)[1:-1]
                if name in ("firstname", "lastname"):
                    yield re.sub(r"[éë]", "e", text)


def payload(version: Version, ledger: Ledger) -> dict[str, Any]:
    """Make a valid journey of these two persons."""
    (_, body), *_ = ledger.journeys(1)
    made: dict[str, Any] = json.loads(body)
    for role, person in (("driver", DRIVER), ("passenger", PASSENGER)):
        identity = made[role]["identity"]
        identity |= {name: person[name] for name in ("firstname", "lastname", "email", "company")}
        identity["phone"] = person["phone"][version]  # type: ignore[index]
        identity["operator_user_id"] = person["user"]
        identity["travel_pass"] = {"name": "navigo", "user_id": person["pass"]}
        if version == "v3":
            identity["identity_key"] = person["key"]
        for end in ("start", "end"):
            place = made[role][end] if version == "v2" else made[end]
            place |= {"lat": person["lat"], "lon": person["lon"]}
            if version == "v2":
                place |= {"literal": person["literal"], "country": "France"}
    if version == "v3":
        made["licence_plate"] = PLATE
    assert isinstance(schemas.validate(version, samples.encode(made)), Journey)
    return made


def spoiled(version: Version, good: dict[str, Any]) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield bodies (and properties) that are refused, with personal values wherever one can be."""
    text = samples.encode(good)

    def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
        copy = json.loads(text)
        change(copy)
        return samples.encode(copy)

    values = [value for person in (DRIVER, PASSENGER) for value in person.values() if isinstance(value, str)]
    number = DRIVER["phone"][version]  # type: ignore[index]
    yield changed(lambda p: p["driver"]["identity"].update({"phone": f"{number}99999"})), {}
    yield changed(lambda p: p["driver"]["identity"].update({number: 1})), {}
    yield changed(lambda p: p["driver"]["identity"].update({"phone": [number]})), {}
    yield changed(lambda p: p["driver"].update({"identity": number})), {}
    yield changed(lambda p: p["passenger"]["identity"].update({"email": {DRIVER["email"]: values}})), {}
    yield changed(lambda p: p["passenger"]["identity"].update({"over_18": DRIVER["lastname"]})), {}
    yield changed(lambda p: p["passenger"].update({"seats": PASSENGER["firstname"]})), {}
    yield changed(lambda p: p.update({"operator_class": PASSENGER["lastname"]})), {}
    yield changed(lambda p: p.update({DRIVER["email"]: DRIVER})), {}
    yield changed(lambda p: p.pop("passenger")), {}
    where = (lambda p: p["driver"]["start"]) if version == "v2" else (lambda p: p["start"])
    yield changed(lambda p: where(p).update({"datetime": DRIVER["literal"]})), {}
    yield changed(lambda p: where(p).update({"lat": str(DRIVER["lat"])})), {}
    yield changed(lambda p: where(p).update({"lon": 1e6 + float(DRIVER["lon"])})), {}  # type: ignore[arg-type]
    yield text[: len(text) * 3 // 4], {}
    yield text.replace("é".encode(), b"\xe9"), {}
    yield text.replace(b'"revenue"', b'"revenue": NaN, "x"'), {}
    yield samples.encode([good]), {}  # type: ignore[arg-type]
    yield json.dumps(number).encode(), {}
    yield text + text, {}
    yield b"[" * 5000 + text + b"]" * 5000, {}
    yield text, {"headers": {"compression": "application/x-gzip"}}
    yield text, {"content_type": "application/cloudevents-batch+json"}
    event = {"specversion": "1.0", "id": "1", "subject": number, "data": good, "data_base64": "x"}
    yield json.dumps(event).encode(), {"content_type": "application/cloudevents+json"}
    yield json.dumps({**event, "data": str(good)}).encode(), {}


class Talkative:
    """A validator that, when told to, refuses with texts and paths that quote the payload."""

    quoting = False

    def __call__(self, version: Version, body: bytes) -> Journey | Refusal:
        if not self.quoting:
            return schemas.validate(version, body)
        said = f"must not be {DRIVER['phone']}, {DRIVER['lastname']} {PASSENGER['email']}"
        return Refusal(
            (
                Violation(f"driver.identity.{DRIVER['email']}", "x", said),
                Violation(f"driver.{DRIVER['lastname']}", "x", said),
            )
        )


FAULTS: tuple[dict[str, Any], ...] = (
    {"maintenance": True},
    {"error_rate": 1},
    {"error_rate": 1, "error_status": 502},
    {"error_rate": 1, "error_status": 422},
    {"garbage": True},
    {"timeout_408": True},
    {"drop_connection": "before_read"},
    {"drop_connection": "before_answer"},
    {"latency_seconds": 1.5},
    {"huge_answer_bytes": 200_000},
    {"slow_drip_seconds": 0.05},
    {"throttle": {"retry_after_seconds": 1}},
    {"terms_violation_labels": ["expired"]},
    {"redirect": f"https://registry.example/{DRIVER['email']}?phone=%2B33639984735"},
    {"not_found": True},
)


@pytest.fixture
def with_password(vhost: Broker) -> Iterator[tuple[str, str]]:
    """URLs with a wrong and with the right password of a user of this test's own."""
    with vhost.user(password=PASSWORD) as url:
        yield url.replace(PASSWORD, WRONG_PASSWORD), url


class Outputs:
    """Everything that the service shows of itself, collected over its life."""

    def __init__(self, service: ServiceProcess, ledger: Ledger) -> None:
        self._service = service
        self._ledger = ledger
        self._texts: list[tuple[str, str]] = []

    def collect(self) -> None:
        """Take what is shown at this moment."""
        for path in ("/metrics", "/livez", "/readyz", "/"):
            self._texts.append((path, self._service.get(path)[1]))
        for queue, depth in self._ledger.broker.queue_depths().items():
            if queue != QUEUE and depth.ready:
                self._texts += [
                    (queue, json.dumps(seen.headers, ensure_ascii=False, default=str))
                    for seen in self._ledger.broker.messages(queue)
                ]

    def search(self) -> list[str]:
        """Return where something was found, and what."""
        texts = [*self._texts, ("log", self._service.log())]
        patterns = [(needle, needle.casefold()) for needle in {*needles()}]
        found = []
        for place, text in texts:
            folded = text.casefold()
            digits = re.sub(r"(?<=\d)[ .()-]+(?=\d)", "", text) if place != "/metrics" else text
            found += [f"{needle!r} in {place}" for needle, pattern in patterns if pattern in folded]
            found += [f"{number} in {place}" for number in NUMBERS if number in digits]
        return sorted(set(found))


@pytest.mark.parametrize(
    ("version", "api", "profile", "log_format"),
    [("v3", "v3.3", Profile.Y2025, "json"), ("v2", "v2", Profile.Y2023, "text")],
)
def test_nothing_personal_and_no_secret_gets_out(  # noqa: PLR0915, PLR0917 - one long life; a table's columns
    serve: Run,
    vhost: Broker,
    with_password: tuple[str, str],
    tmp_path: Path,
    version: Version,
    api: str,
    profile: Profile,
    log_format: str,
) -> None:
    """All the payloads through all the failures in one life of the service; then all its outputs."""
    vhost.declare(QUEUE, arguments=Ledger(vhost).topology.main.arguments)
    ledger = Ledger(vhost, version=version)
    judge = Talkative()
    (tmp_path / "token").write_text(FIRST_TOKEN)

    def publish(count: int = 1) -> None:
        made = [payload(version, ledger) for _ in range(count)]
        ledger.publish([(samples.journey_id(each), samples.encode(each)) for each in made])

    with LocalRegistry(tokens=[FIRST_TOKEN], profile=profile, validate=judge) as registry:
        service = serve(
            vhost,
            broker_url=";".join(with_password),
            registry_url=registry.url,
            registry_api_version=api,
            registry_timeout_seconds="0.7",
            auth_pause_after="2",
            retry_max_attempts="4",
            retry_attempts_per_visit="2",
            log_level="DEBUG",
            log_format=log_format,
        )
        outputs = Outputs(service, ledger)
        publish(3)
        for number, (body, more) in enumerate(spoiled(version, payload(version, ledger))):
            vhost.publish(QUEUE, body, message_id=f"spoiled-{number}", **more)
            ledger.note(f"spoiled-{number}", body)
        ledger.await_settled()
        outputs.collect()
        for fault in FAULTS:
            registry.faults.for_next(1, **fault)
            publish()
            ledger.await_settled()
        judge.quoting = True
        publish(2)
        ledger.await_settled()
        judge.quoting = False

        registry.faults.maintenance = True
        publish(2)  # too few for the breaker: through the delay queues into exhaustion
        delay = ledger.topology.delay_queue(1)
        wait_until(lambda: vhost.depth(delay).ready, 10, "delayed", interval=0.02)
        outputs.collect()
        ledger.await_settled()
        publish(20)
        wait_until(lambda: service.value("paused", cause="unavailable") == 1, 10, "consumption pauses")
        assert vhost.close_connections() >= 1
        registry.faults.maintenance = False
        ledger.await_settled()

        registry.revoke(FIRST_TOKEN)
        publish(20)
        wait_until(lambda: service.value("paused", cause="unauthorized") == 1, 10, "consumption pauses")
        outputs.collect()
        registry.accept(SECOND_TOKEN)
        (tmp_path / "token").write_text(SECOND_TOKEN)
        ledger.await_settled()
        registry.down()
        publish(5)
        wait_until(lambda: service.value("retries_total", reason="connect") >= 1, 10, "no answer")
        registry.up()
        ledger.await_settled()
        outputs.collect()
        assert service.terminate() == 0
        account = ledger.balance(registry, repeated=True)
        reasons = {"invalid", "rejected", "expired", "exhausted", "unauthorized"}
        assert account.dead.keys() >= reasons, "the failures have happened"
        assert outputs.search() == []
        assert len(service.log()) > 10_000, "there was something to search"


def test_the_search_finds_what_it_looks_for() -> None:
    """A search that finds nothing proves nothing unless it can find."""

    class Leaky:
        def log(self) -> str:
            return f"phone +33 (0)6.39.98.47.35 of {DRIVER['firstname'].upper()} at 47.218371 {SECOND_TOKEN}"  # type: ignore[attr-defined]

    found = Outputs(Leaky(), None).search()  # type: ignore[arg-type]
    for needle in ("639984735", DRIVER["firstname"], "47.218371", SECOND_TOKEN):
        assert any(str(needle) in each for each in found), needle
