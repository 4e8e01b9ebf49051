"""Our own sample payloads, and small changes to them."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import schemas

FOLDER = Path(__file__).parents[2] / "samples" / "payloads"
SAMPLES: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))
}
DROP = object()


def version_of(name: str) -> schemas.Version:
    """The API version that a sample is for."""
    return "v2" if name.startswith("v2") else "v3"


def changed(name: str, path: str, value: object) -> dict[str, Any]:
    """A sample with the value at a dotted ``path`` replaced, added, or dropped (``DROP``)."""
    payload: Any = copy.deepcopy(SAMPLES[name])
    *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
    place = payload
    for part in parents:
        place = place[part]
    if value is DROP:
        del place[last]
    elif isinstance(place, list) and last == len(place):
        place.append(value)
    else:
        place[last] = value
    return dict(payload)


def judge(name: str, payload: object) -> list[tuple[str, str]]:
    """``path`` and ``code`` of each violation, nothing when accepted."""
    verdict = schemas.validate(version_of(name), json.dumps(payload).encode())
    if isinstance(verdict, schemas.Journey):
        return []
    assert 0 < len(verdict.violations) <= schemas.MAX_VIOLATIONS
    return [(violation.path, violation.code) for violation in verdict.violations]


def judge_raw(name: str, path: str, raw: str) -> list[tuple[str, str]]:
    """Like ``judge``, with ``raw`` JSON text in the place of the value at ``path``."""
    text = json.dumps(changed(name, path, "@raw@")).replace('"@raw@"', raw)
    verdict = schemas.validate(version_of(name), text.encode())
    return [] if isinstance(verdict, schemas.Journey) else [(v.path, v.code) for v in verdict.violations]


def strings(value: object) -> Iterator[str]:
    """Every text in a payload, keys left out."""
    if isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value


def objects(value: object, path: str = "") -> Iterator[str]:
    """The dotted path of every object in a payload whose keys are closed."""
    if isinstance(value, dict):
        yield path
        for key, item in value.items():
            if key != "incentive_counterparts":
                yield from objects(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from objects(item, f"{path}.{index}")


def hostile_bodies() -> Iterator[bytes]:
    """Bodies within the Registry's limit that would cost much if they were taken at their word."""
    yield b"{" + b",".join(b'"k%d":1' % number for number in range(180_000)) + b"}"
    yield b"{" + b",".join(b'"k%d":1' % number for number in range(9_000)) + b"}" + b" " * 100_000
    yield b'{"incentives":[' + b"{}," * 20_000 + b"{}]}"
    yield b'{"incentives":[' + b"1," * 900_000 + b"1]}"
    yield b'{"incentive_counterparts":[' + b"[]," * 600_000 + b"1]}"
    yield b'{"operator_class":"' + b"\\ud800" * 300_000 + b'"}'
    yield b'{"operator_class":"' + b"\\\\" * 1_000_000
    yield b'{"driver":{"identity":{"email":"' + b"a." * 1_000_000 + b'"}}}'
    yield b'{"distance":' + b"1" * 2_000_000 + b"}"
    yield b"[" * 2_000_000
    yield b"\x00" * 2_000_000
