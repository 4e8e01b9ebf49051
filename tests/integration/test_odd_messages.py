"""Messages that would harm a careless consumer: each ends where it belongs, and the others flow."""

import gzip
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import amqp
import psutil
import pytest

from tests.broker import Broker
from tests.integration.conftest import Run
from tests.ledger import QUEUE, TOPOLOGY, Ledger
from tests.local_registry import TOKEN, LocalRegistry
from tests.proxy import Proxy
from tests.waiting import wait_until

INVALID_QUEUE = TOPOLOGY.dead_letter_queue("invalid")
_MARK = "MARK" * 2


class _Tampered(amqp.Message):
    """A message whose serialised properties have ``_MARK`` replaced, to say what py-amqp refuses to."""

    replacement = b""

    def _serialize_properties(self) -> bytes:
        raw: bytes = super()._serialize_properties()
        assert _MARK.encode() in raw
        return raw.replace(_MARK.encode(), self.replacement)


_AGES_AWAY = b"T" + (1_790_000_000_000).to_bytes(8, "big")  # milliseconds where AMQP wants seconds


def _nested(levels: int) -> bytes:
    """Properties that are one header, a table in a table in a table ..."""
    table = b""
    for _ in range(levels):
        table = b"\x01nF" + len(table).to_bytes(4, "big") + table
    return (1 << 13).to_bytes(2, "big") + len(table).to_bytes(4, "big") + table


def _tampered(vhost: Broker, body: bytes, what: str, message_id: str) -> None:
    more: dict[str, Any] = {"content_type": "application/json", "delivery_mode": 2, "message_id": message_id}
    if what == "content type that is not UTF-8":
        more["content_type"], replacement = _MARK, b"\xff\xfe\xe9\xe8\x80\x81\xc0\xc1"
    elif what == "reply-to that is not UTF-8":
        more["reply_to"], replacement = _MARK, b"r\xe9ponse\xff"
    else:  # a header whose timestamp no calendar holds; "S" + length + text becomes "T" + 8 bytes + a void
        more["application_headers"] = {"at": datetime(2026, 11, 23, tzinfo=UTC), "note": _MARK}
        replacement = _MARK.encode()
    message = _Tampered(body, **more)
    message.replacement = replacement
    if what == "timestamp in milliseconds":
        seconds = int(datetime(2026, 11, 23, tzinfo=UTC).timestamp()).to_bytes(8, "big")
        serialize = message._serialize_properties
        message._serialize_properties = lambda: serialize().replace(b"T" + seconds, _AGES_AWAY)
    elif what.startswith("headers"):
        levels = int(what.split()[-2])
        message._serialize_properties = lambda: _nested(levels)
    with vhost.channel() as channel:
        channel.confirm_select()
        channel.basic_publish_confirm(message, routing_key=QUEUE)


@pytest.mark.parametrize(
    "what",
    [
        "content type that is not UTF-8",
        "reply-to that is not UTF-8",
        "timestamp in milliseconds",
        "headers nested 400 deep",
        "headers nested 1500 deep",
    ],
)
def test_unreadable_properties_cost_the_properties_only(
    run: Run, vhost: Broker, sandbox: LocalRegistry, what: str
) -> None:
    """Properties that no frame reader can read neither stop the queue nor burn the neighbours' deliveries."""
    ledger = Ledger(vhost)
    ledger.declare()
    (odd_id, odd), *_ = ledger.journeys(1)
    ledger.publish(20)
    _tampered(vhost, odd, what, odd_id)
    ledger.note(odd_id, odd)
    _tampered(vhost, b'{"journey_id": "odd"}', what, "odd and invalid")
    ledger.publish(20)
    service = run(vhost)
    ledger.await_settled()
    (dead,) = vhost.take(INVALID_QUEUE)  # its message id could not be read
    assert dead.body == b'{"journey_id": "odd"}'
    assert dead.headers["x-unreadable-properties"] is True
    assert len(ledger.balance(sandbox).registered) == 41
    assert service.value("reconnects_total", connection="consume") == 0
    assert service.value("redelivered_total") == 0


def test_headers_that_fill_a_frame_are_left_out_of_copies(
    run: Run, vhost: Broker, sandbox: LocalRegistry
) -> None:
    """With the headers that we add they are more than a frame: they are left behind, and nothing is cut."""
    ledger = Ledger(vhost)
    ledger.declare()
    for number, name in enumerate(("big", "x-big")):
        body = b'{"journey_id": "%d"}' % number
        headers = {name: "x" * 131_000, "x-trace": "abc"}
        vhost.publish(TOPOLOGY.queue, body, headers=headers, message_id=f"big-{number}")
        ledger.note(f"big-{number}", body)
    ledger.publish(ledger.invalid(20))
    ledger.publish(20)
    service = run(vhost)
    ledger.await_settled()
    account = ledger.balance(sandbox)
    assert (len(account.registered), len(account.dead["invalid"])) == (20, 22)
    large = [
        each for each in vhost.messages(INVALID_QUEUE) if each.properties["message_id"].startswith("big")
    ]
    for letter in large:
        assert letter.headers["x-reason"] == "invalid"
        assert letter.headers["x-trace"] == "abc"
        assert not {"big", "x-big"} & letter.headers.keys()
    assert service.value("reconnects_total", connection="publish") == 0
    assert service.value("publish_failures_total", kind="unencodable") == 2


def test_a_name_that_is_not_text_costs_the_name_only(run: Run, vhost: Broker, sandbox: LocalRegistry) -> None:
    """A routing key that is not UTF-8 neither stops the queue nor burns the neighbours' deliveries."""
    ledger = Ledger(vhost)
    ledger.declare()
    (odd_id, odd), *_ = ledger.journeys(1)
    ledger.publish(20)
    with vhost.channel() as channel:
        channel.confirm_select()
        channel.exchange_declare("operator", "fanout", durable=True, auto_delete=False)
        channel.queue_bind(QUEUE, "operator")
        for message_id, body in ((odd_id, odd), ("odd and invalid", b"{}")):
            message = amqp.Message(body, message_id=message_id, delivery_mode=2)
            channel.basic_publish_confirm(message, "operator", b"\xe9t\xc3\xa9")
            ledger.note(message_id, body)
    ledger.publish(20)
    service = run(vhost)
    ledger.await_settled()
    (dead,) = vhost.messages(INVALID_QUEUE)
    assert dead.headers["x-original-exchange"] == "operator"
    assert dead.headers["x-original-routing-key"] == "?t??"
    assert len(ledger.balance(sandbox).registered) == 41
    assert service.value("reconnects_total", connection="consume") == 0
    assert service.value("redelivered_total") == 0


_BOMB = gzip.compress(b" " * 50_000_000)
_INVALID: dict[str, tuple[bytes, Mapping[str, Any]]] = {
    "empty": (b"", {}),
    "too-large": (b'{"journey_id": "' + b"x" * 2_500_000 + b'"}', {}),
    "zip-bomb": (_BOMB, {"application_headers": {"compression": "application/x-gzip"}}),
    "encoded": (_BOMB, {"content_encoding": "gzip"}),
    "not-utf-8": (b"\xff\xfe", {"content_type": "text/plain", "content_encoding": "utf-16"}),
    "pickle": (b"cos\nsystem\n.", {"content_type": "application/x-python-serialize"}),
    "expiring": (b"{}", {"expiration": "60000"}),
    "copied": (b"{}", {"application_headers": {"CC": ["elsewhere", QUEUE + ".dead-letter.rejected"]}}),
    "priority": (b"{}", {"priority": 9, "correlation_id": "c", "reply_to": "r", "type": "t", "app_id": "a"}),
}


def test_hostile_bodies_and_properties_end_as_invalid(
    run: Run, vhost: Broker, sandbox: LocalRegistry
) -> None:
    """Each keeps its body and properties, steers no broker, and costs neither memory nor the others."""
    service = run(vhost)
    service.await_ready()
    vhost.declare("elsewhere")
    ledger = Ledger(vhost)
    with vhost.channel() as channel:
        channel.confirm_select()
        for message_id, (body, properties) in _INVALID.items():
            more = {"content_type": "application/json", **properties}
            message = amqp.Message(body, message_id=message_id, delivery_mode=2, **more)
            channel.basic_publish_confirm(message, routing_key=QUEUE)
            ledger.note(message_id, body)
    rejected = TOPOLOGY.dead_letter_queue("rejected")
    assert len(vhost.take(rejected)) == len(vhost.take("elsewhere")) == 1  # the broker's own copies
    good = ledger.publish(20)
    ledger.await_settled()
    account = ledger.balance(sandbox)
    assert (account.registered, account.dead) == (set(good), {"invalid": set(_INVALID)})
    assert vhost.depth("elsewhere").total == 0
    dead = {seen.properties["message_id"]: seen for seen in vhost.messages(INVALID_QUEUE)}
    assert "expiration" not in dead["expiring"].properties
    assert dead["expiring"].headers["x-original-expiration"] == "60000"
    assert dead["zip-bomb"].headers["x-detail"] == "compressed"
    assert {"priority": 9, "correlation_id": "c"}.items() <= dead["priority"].properties.items()
    assert psutil.Process(service.pid).memory_info().rss < 150e6


def test_journey_of_another_user(run: Run, vhost: Broker, sandbox: LocalRegistry) -> None:
    """A ``user_id`` that is not ours would close our channel if it were published again."""
    vhost.node.eval(
        'begin rabbit_auth_backend_internal:add_user(<<"svc">>, <<"pw">>, <<"tests">>), '
        f'ok = rabbit_auth_backend_internal:set_permissions(<<"svc">>, <<"{vhost.vhost}">>, '
        '<<".*">>, <<".*">>, <<".*">>, <<"tests">>), [] end'
    )
    service = run(vhost, broker_url=vhost.url.replace("guest:guest", "svc:pw"))
    service.await_ready()
    ledger = Ledger(vhost)
    vhost.publish(QUEUE, b"{}", user_id="guest", message_id="foreign")
    ledger.note("foreign", b"{}")
    ledger.await_settled()
    assert ledger.balance(sandbox).dead == {"invalid": {"foreign"}}
    (dead,) = vhost.messages(INVALID_QUEUE)
    assert dead.headers["x-original-user-id"] == "guest"
    assert service.value("reconnects_total", connection="publish") == 0


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16", "nonsense"])
def test_content_encoding_changes_no_byte(
    run: Run, vhost: Broker, sandbox: LocalRegistry, encoding: str
) -> None:
    """Kombu's own publishers always name an encoding; py-amqp would decode by it, and we would send text."""
    service = run(vhost)
    service.await_ready()
    ledger = Ledger(vhost)
    ((good_id, good),) = ledger.journeys(1)
    good = good.replace(b'"operator_class":', b'"operator_class": ')
    for message_id, body in (
        (good_id, good),
        ("odd", b'\xef\xbb\xbf{"n": "\xc3\xa9"}'),
        ("odder", b"\xff\xfe"),
    ):
        vhost.publish(QUEUE, body, message_id=message_id, content_encoding=encoding)
        ledger.note(message_id, body)
    ledger.await_settled()
    account = ledger.balance(sandbox)
    assert (account.registered, account.dead) == ({good_id}, {"invalid": {"odd", "odder"}})


def test_published_twice_is_registered_once(run: Run, vhost: Broker, sandbox: LocalRegistry) -> None:
    """The Registry answers 409 to the second; that is a success, counted by its own name."""
    service = run(vhost)
    service.await_ready()
    ledger = Ledger(vhost)
    journeys = ledger.journeys(30)
    ledger.publish(journeys)
    ledger.publish(journeys)
    ledger.await_settled()
    assert len(ledger.balance(sandbox).registered) == 30
    assert service.value("journeys_total", outcome="registered") == 30
    assert service.value("journeys_total", outcome="already_registered") == 30


def test_redelivered_after_registration(run: Run, vhost: Broker, sandbox: LocalRegistry) -> None:
    """Cut between registration and acknowledgement, every journey comes again and is found registered."""
    with Proxy("127.0.0.1", vhost.node.port) as proxy:
        service = run(vhost, broker_url=vhost.url_at(proxy.port))
        service.await_ready()
        ledger = Ledger(vhost)
        (first,) = ledger.publish(1)  # goes alone
        ledger.await_settled()
        sandbox.faults.latency_seconds = 1.0
        ledger.publish(30)
        wait_until(lambda: len(sandbox.journeys) == 31, 10, "all are stored, none is answered")
        proxy.cut()
        sandbox.faults.clear()
        ledger.await_settled()
        assert len(ledger.balance(sandbox).registered) == 31
        assert service.value("redelivered_total") == 30
        assert service.value("journeys_total", outcome="already_registered") == 30
        assert service.value("journeys_total", outcome="registered") == 1
        assert {j.times_seen for j in sandbox.journeys.values() if j is not sandbox.journeys[first]} == {2}


def test_round_and_round_one_delay_queue(run: Run, vhost: Broker, sandbox: LocalRegistry) -> None:
    """The third and fourth return take the delay queue of the second; the broker must see no cycle."""
    service = run(vhost, retry_attempts_per_visit="1", breaker_threshold="1000")
    service.await_ready()
    ledger = Ledger(vhost)
    sandbox.faults.error_rate, sandbox.faults.error_status = 1.0, 503
    ledger.publish(5)
    failed = lambda: sandbox.requests_by_status.get(503, 0)  # noqa: E731
    wait_until(lambda: failed() == 5 * 4, 20, lambda: f"each came four times: {failed()} requests")
    sandbox.faults.clear()
    ledger.await_settled()
    assert len(ledger.balance(sandbox).registered) == 5
    assert service.value("returned_total", kind="delayed") == 20
    settled = service.log_lines("settled")
    assert all(line["attempts"] == 5 for line in settled if line["outcome"] == "registered")


def test_a_long_pause_burns_no_delivery_counts(run: Run, vhost: Broker, sandbox: LocalRegistry) -> None:
    """Probes go through a delay queue, as new to the broker as at first; the rest stays in the queue."""
    sandbox.revoke(TOKEN)
    service = run(
        vhost,
        auth_pause_after="3",
        hold_limit_seconds="1",
        retry_attempts_per_visit="1",
        registry_timeout_seconds="0.8",
        registry_concurrency="10",
        broker_prefetch="10",
    )
    service.await_ready()
    ledger = Ledger(vhost)
    ledger.publish(40)
    delayed = lambda: service.value("returned_total", kind="delayed")  # noqa: E731
    wait_until(lambda: delayed() >= 12, 20, lambda: f"probed and delayed: {delayed()}")
    assert service.value("paused", cause="unauthorized") == 1
    backlog = vhost.messages(QUEUE)
    assert len(backlog) >= 25
    assert {seen.delivery_count for seen in backlog} == {0}
    sandbox.accept(TOKEN)
    ledger.await_settled()
    account = ledger.balance(sandbox)
    assert account.dead.keys() == {"unauthorized"}
    assert len(account.dead["unauthorized"]) == 1, "the first submission goes alone"
    assert service.value("paused", cause="unauthorized") == 0
