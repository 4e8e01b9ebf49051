"""Large bodies: the bytes that are held are bounded, whatever the prefetch; one too large is not read."""

import json
import os
import re
from pathlib import Path

import pytest

from consumer.core.topology import Topology
from tests.broker import Broker
from tests.integration.conftest import Run
from tests.ledger import QUEUE, Ledger
from tests.local_registry import LocalRegistry
from tests.service import ServiceProcess
from tests.waiting import wait_until

MB = 1_000_000
MOST_RESIDENT = 200 * MB


def peak(service: ServiceProcess) -> int:
    """The most bytes that were resident since the start of the process."""
    assert service._process is not None
    status = Path(f"/proc/{service._process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def large(ledger: Ledger, valid: int, invalid: int) -> list[tuple[str, bytes]]:
    """Journeys of 1.9 MB: valid ones with much white space, and ones that are refused."""
    padding = b" " * int(1.9 * MB)
    made = [(name, body + padding) for name, body in ledger.journeys(valid)]
    for name, _ in ledger.invalid(invalid):
        made.append((name, json.dumps({"text": "x" * int(1.9 * MB), "list": [1] * 1000}).encode()))
    return made


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_memory_is_bounded_with_hundreds_of_large_bodies(
    run: Run, vhost: Broker, sandbox: LocalRegistry, *, tls: bool
) -> None:
    """With the default prefetch; the journeys behind them are registered."""
    ledger = Ledger(vhost)
    ledger.declare()
    count = 40 if tls else 150
    ledger.publish(large(ledger, count, count))
    good = ledger.publish(50)
    settings = {"broker_url": vhost.tls_url, "broker_ca_file": str(vhost.node.ca_file)} if tls else {}
    service = run(vhost, **settings)
    ledger.await_settled(120)
    account = ledger.balance(sandbox)
    assert account.registered >= set(good)
    assert set(account.dead) == {"invalid"}
    assert peak(service) < MOST_RESIDENT
    assert service.value("reconnects_total", connection="consume") == 0


def test_bytes_that_cannot_be_settled_do_not_end_the_connection(
    run: Run, vhost: Broker, sandbox: LocalRegistry
) -> None:
    """The Registry hangs: the rest goes back before RabbitMQ gives the connection up, and comes again."""
    ledger = Ledger(vhost)
    ledger.declare()
    sandbox.faults.latency_seconds = 30.0
    ids = ledger.publish(large(ledger, 100, 0))
    service = run(vhost, registry_timeout_seconds="60", broker_prefetch_bytes=str(8 * 1024 * 1024))
    line = "deliveries go back unread"
    wait_until(lambda: service.log_lines(line), 40, "the rest is given back")
    wait_until(lambda: vhost.depth(QUEUE).ready > 80, 30, "it is in the queue")
    sandbox.faults.clear()
    ledger.await_settled(120)
    assert ledger.balance(sandbox).registered == set(ids)
    assert service.value("reconnects_total", connection="consume") == 0
    assert len(service.log_lines(line)) < 5


@pytest.mark.parametrize("size", [15 * MB, 100 * MB])
def test_one_body_of_any_size(run: Run, vhost: Broker, sandbox: LocalRegistry, size: int) -> None:
    """A large one is a dead letter; one that cannot be read goes back, and ends by its delivery limit."""
    if size > 16 * MB and os.environ.get("TEST_RABBITMQ_ROOT"):
        pytest.skip("this RabbitMQ refuses such a message")
    ledger = Ledger(vhost, Topology(QUEUE, delays_seconds=(1, 2), delivery_limit=2))
    ledger.declare()
    vhost.publish(QUEUE, b"x" * size, message_id="huge")
    good = ledger.publish(10)
    service = run(vhost, broker_delivery_limit="2")
    wait_until(lambda: len(sandbox.journeys) == len(good), 60, "the others are registered")
    if size < 16 * MB:
        wait_until(lambda: vhost.depth(f"{QUEUE}.dead-letter.invalid").ready == 1, 30, "a dead letter")
    else:
        wait_until(lambda: service.log_lines("a message is too large to be read"), 30, "it is told")
        wait_until(lambda: vhost.depth(QUEUE).unacked == 1, 30, "it is held")
        wait_until(lambda: vhost.depth(QUEUE).total == 1, 30, "only it is left")
        assert peak(service) < MOST_RESIDENT
        aside = f"{QUEUE}.dead-letter.delivery-limit"
        wait_until(lambda: vhost.depth(aside).ready == 1, 60, "it is put aside after its deliveries")
        return
    assert peak(service) < MOST_RESIDENT
