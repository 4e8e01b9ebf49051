"""The incident of ``docs/dead-letters.md`` is played, on a real broker: what is said is what the page shows.

Numbers, ids and dates differ from one run to the next, and only they may; three dots on the page stand for
lines that it leaves out.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from consumer.core.topology import Topology
from consumer.publishing import samples
from tests import pages
from tests.broker import Broker
from tests.integration.conftest import Run
from tests.ledger import Ledger
from tests.local_registry import TOKEN, LocalRegistry
from tests.waiting import wait_until

PAGE = pages.ROOT / "docs" / "dead-letters.md"
QUEUE = "journeys.completed"
TOPOLOGY = Topology(queue=QUEUE, delays_seconds=(1, 2))
UNAUTHORIZED, INVALID = map(TOPOLOGY.dead_letter_queue, ("unauthorized", "invalid"))
_ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def blocks() -> list[str]:
    """The console blocks of the incident, in order."""
    section = PAGE.read_text("utf-8").partition("## An incident")[2].partition("\n## ")[0]
    return re.findall(r"^```console\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[tuple[str, str]]:
    """Each command of a block, as it is typed, with the output that the page shows."""
    parts = re.split(r"^\$ ((?:.*\\\n)*.*)\n", block, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def alike(text: str) -> str:
    """``text`` without what differs from run to run: ids, dates, times, rates, the widths of columns."""
    text = re.sub(_ID, "ID", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "DATE", text)
    text = re.sub(r"(?:\d+d)?(?:\d+h)?(?:\d+m)?\d+(?:\.\d+)?s\b", "SPAN", text)
    text = re.sub(r"\d+(?:\.\d+)? (?:h \d\d min|min|s)\b", "SPAN", text)
    text = text.replace("SPAN to SPAN ago", "SPAN ago")  # they did not all die within the same second
    text = re.sub(r"\(\d[\d,]*/s\)", "(RATE)", text)
    text = re.sub(r"fingerprint \w+", "fingerprint F", text)
    return "\n".join(re.sub(r"[─ ]+", " ", line).strip() for line in text.strip().splitlines())


def assert_shown(shown: str, said: str) -> None:
    """The page's chunks between three dots stand in what was said, whole and in this order."""
    rest = f"\n{alike(said)}\n"
    for chunk in filter(None, map(str.strip, re.split(r"^\.\.\.$", alike(shown), flags=re.MULTILINE))):
        before, found, after = rest.partition(f"\n{chunk}\n")
        assert found, f"the page shows:\n{chunk}\nbut what comes is:\n{before}"
        rest = f"\n{after}"


def made(number: int, hours_ago: float, seats: int = 1) -> tuple[str, bytes]:
    """A v3 journey as (id, body)."""
    payload: dict[str, Any] = samples.journey("v3", random.Random(number), datetime.now(UTC))
    start = datetime.now(UTC) - timedelta(hours=hours_ago)
    for place, moment in (("start", start), ("end", start + timedelta(minutes=40))):
        payload[place]["datetime"] = moment.isoformat(timespec="seconds")
    payload["driver"]["identity"].pop("phone_trunc", None)
    payload["driver"]["identity"]["phone"] = "+33639981234"
    payload["passenger"]["seats"] = seats
    return samples.journey_id(payload), samples.encode(payload)


class Terminal:
    """Types the page's commands in a directory of their own."""

    def __init__(self, broker: Broker, directory: Path) -> None:
        self._directory = directory
        program = Path(sys.executable).parent
        assert shutil.which("journey-consumer", path=str(program)), "make test installs it"
        self._environment = {
            **os.environ,
            "PATH": f"{program}:{os.environ['PATH']}",
            "BROKER_URL": broker.url,
            "REGISTRY_API_VERSION": "v3",
        }

    def play(self, block: str, journey_id: str = "") -> None:
        """Type the commands of a block, about ``journey_id``, and compare what they say with the page."""
        for command, shown in commands(block):
            done = subprocess.run(
                ["bash", "-c", re.sub(_ID, journey_id, command)],
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert_shown(shown, done.stdout)


def test_the_incident(vhost: Broker, run: Run, sandbox: LocalRegistry, tmp_path: Path) -> None:
    """From the alert to the last dead letter, as the page tells it."""
    ledger = Ledger(vhost, topology=TOPOLOGY, version="v3")
    ledger.declare()
    terminal = Terminal(vhost, tmp_path)
    summary, listing, log, replay, show, ending = blocks()
    token_file = tmp_path / "mounted-token"
    token_file.write_text("an-old-one")
    sandbox.accept("an-old-one")
    refused = [made(number, 20 - number) for number in range(12)]
    service = run(
        vhost,
        broker_queue=QUEUE,
        registry_api_version="v3",
        registry_token_file=str(token_file),
        auth_pause_after="12",
        dead_letters_return_unauthorized="true",
    )
    ledger.publish([made(200, 1)])
    wait_until(lambda: sandbox.requests_by_status.get(201) == 1, 20, "it works")
    sandbox.revoke("an-old-one")
    ledger.publish([made(100 + number, 12, seats=9) for number in range(3)] + refused)
    wait_until(
        lambda: (vhost.depth(UNAUTHORIZED).ready, vhost.depth(INVALID).ready) == (12, 3),
        30,
        lambda: f"all are dead: {service.log()}",
    )
    terminal.play(summary)
    terminal.play(listing)

    token_file.write_text(TOKEN)
    wait_until(lambda: sandbox.requests_by_status.get(201) == 13, 60, "they return")
    wait_until(lambda: vhost.depth(UNAUTHORIZED).total == 0, 10, "their dead letters are gone")
    expected = alike(log).splitlines()

    def said() -> list[str]:
        told = []
        for line in service.log_lines():
            outcomes = [f"{name} {count}" for name, count in line.get("outcomes", {}).items()]
            cause = f" cause: {line['cause']}" if "cause" in line else ""
            told.append(alike(f"{line['event']}{cause}" + (f" outcomes: {outcomes[0]}" if outcomes else "")))
        return [each for each in told if each in expected]

    # The first one's return and the end of the pause are told by two tasks, in either order.
    wait_until(
        lambda: sorted(said()[-len(expected) :]) == sorted(expected),
        20,
        lambda: f"{said()} and not {expected}",
    )
    assert service.terminate() == 0

    vhost.publish_all(((body, {"x-reason": "unauthorized"}) for _, body in refused), UNAUTHORIZED)
    terminal.play(replay)
    invalid = [json.loads(message.body)["operator_journey_id"] for message in vhost.messages(INVALID)]
    terminal.play(show, invalid[0])
    terminal.play(ending)
    assert len((tmp_path / "archive.jsonl").read_text().splitlines()) == 2
    assert len((tmp_path / "audit.jsonl").read_text().splitlines()) == 2
