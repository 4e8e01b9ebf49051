"""Causes in words: every reply code of the broker, every fault of the network, no secret in any of them."""

import socket
import ssl
from typing import Any

import amqp.exceptions
import pytest
from amqp.exceptions import AMQPError, ConsumerCancelled, RecoverableConnectionError, error_for_code
from hypothesis import given
from hypothesis import strategies as st

from consumer.broker.causes import CANCELLED, why
from consumer.errors import BrokerError
from tests import pages

LOGIN = "the broker refuses this user name and password"
VHOST = "the virtual host does not exist, or this user has no access to it"


def reply(code: int, text: str = "") -> AMQPError:
    """What py-amqp raises for a channel or connection that the broker closes."""
    error = error_for_code(code, text, (0, 0), amqp.exceptions.ChannelError)
    assert isinstance(error, AMQPError)
    return error


#: Texts as RabbitMQ 3.10 and 4.0 write them, after the name of the code.
REPLIES = [
    (311, "message too large", "a message is larger than the broker allows"),
    (320, "broker forced connection closure with reason 'shutdown'", "the broker closed the connection"),
    (320, "Closed via management plugin", "the broker closed the connection: it is"),
    (320, "Too many heartbeats missed", "heartbeats missed"),
    (403, "", LOGIN),
    (403, "Login was refused using authentication mechanism PLAIN. For details see the log", LOGIN),
    (403, "queue 'q' in vhost 'v' in exclusive use", "the queue 'q' has an exclusive consumer elsewhere"),
    (403, "access to queue 'q' in vhost 'v' refused for user 'u'",
     "this user lacks a permission on the queue 'q'"),
    (403, "write access to exchange 'e' in vhost 'v' refused for user 'u'",
     "this user lacks the write permission on the exchange 'e'"),
    (403, "operation not permitted on the default exchange", "the broker refuses access (403)"),
    (404, "no queue 'q' in vhost 'v'", "the queue 'q' does not exist"),
    (404, "no exchange 'e' in vhost 'v'", "the exchange 'e' does not exist"),
    (404, "home node 'rabbit@a' of durable queue 'q' in vhost 'v' is down or inaccessible",
     "the queue 'q' is on a node that is down"),
    (404, "queue 'q' in vhost 'v' process is stopped by supervisor",
     "the queue 'q' is on a node that is down"),
    (404, "else", "a queue or exchange does not exist"),
    (405, "cannot obtain exclusive access to locked queue 'q' in vhost 'v'",
     "the queue 'q' is exclusive to another connection"),
    (406, "inequivalent arg 'x-queue-type' for queue 'q' in vhost 'v': received none but current is 'stream'",
     "the queue 'q' exists with another x-queue-type"),
    (406, "delivery acknowledgement on channel 1 timed out. Timeout value used: 1800000 ms. This timeout",
     "a message was held longer than consumer_timeout (1800 s)"),
    (406, "unknown delivery tag 5", "an acknowledgement names a delivery that the broker does not know"),
    (406, "invalid arg 'x-expires' for queue 'q' in vhost 'v': expected integer",
     "the broker does not accept the argument x-expires of the queue 'q'"),
    (406, "message size 600000000 is larger than configured max size", "a message is larger than the broker"),
    (406, "else", "the broker refuses the arguments of a request (406)"),
    (501, "frame error", "protocol error (501)"),
    (502, "", "protocol error (502)"),
    (503, "", "protocol error (503)"),
    (504, "expected 'channel.open'", "the broker has closed this channel (504)"),
    (505, "expected method frame", "protocol error (505)"),
    (505, "a frame of 9 bytes exceeds twice the negotiated maximum of 4",
     "the broker sent a frame larger than negotiated"),
    (506, "", "the broker, or this connection, has no more channels or memory (506)"),
    (530, "", VHOST),
    (530, "vhost v not found", VHOST),
    (530, "access to vhost 'v' refused for user 'u'", VHOST),
    (530, "access to vhost 'v' refused for user 'u': connection limit (0) is reached",
     "the broker's limit of connections is reached"),
    (530, "attempt to reuse consumer tag 'x'", "the broker does not allow this (530)"),
    (541, "access to vhost 'v' refused for user 'u': vhost 'v' is down",
     "the virtual host is down on this node"),
    (541, "", "internal error of the broker (541)"),
    (540, "", "the broker reports error 540"),
    (599, "something of a plugin: s3cret", "the broker reports error 599"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "text", "told"), REPLIES)
def test_a_reply_is_told_by_its_cause(code: int, text: str, told: str) -> None:
    assert why(reply(code, text)).startswith(told)


def test_every_reply_code_that_py_amqp_knows_has_a_sentence() -> None:
    """A code that is new in py-amqp fails here: it needs a row."""
    unnamed = {code for code in amqp.exceptions.ERROR_MAP if "reports error" in why(reply(code))}
    assert unnamed <= {313, 402, 540}, "these need a request that we never make"


FAULTS = [
    (BrokerError("as it is"), "as it is"),
    (ConsumerCancelled("tag", (60, 30)), CANCELLED),
    (ConnectionAbortedError("consumer cancelled by the broker"), CANCELLED),
    (RecoverableConnectionError("basic_publish: timed out"), "no answer in time"),
    (RecoverableConnectionError("connection already closed"), "the connection is already closed"),
    (RecoverableConnectionError("s3cret"), "RecoverableConnectionError"),
    (ssl.SSLError(1, "s3cret"), "TLS failed"),
    (socket.gaierror(-2, "s3cret"), "the host name cannot be resolved"),
    (TimeoutError(), "no answer in time"),
    (TimeoutError(110, "Connection timed out"), "no answer in time"),
    (ConnectionRefusedError(111, "x"), "connection refused: no server listens on this address and port"),
    (ConnectionResetError("x"), "the connection was cut by the broker or by the network"),
    (BrokenPipeError(32, "x"), "the connection was cut by the broker or by the network"),
    (OSError("Server unexpectedly closed connection"), "the connection was closed without a reason"),
    (OSError(113, "No route to host"), "No route to host"),
    (KeyError("s3cret"), "KeyError"),
]


@pytest.mark.parametrize(("error", "told"), FAULTS)
def test_a_fault_is_told_by_its_cause(error: Exception, told: str) -> None:
    assert why(error).startswith(told)
    assert "s3cret" not in why(error)


_WORDS = st.sampled_from(
    (*(text for _, text, _ in REPLIES), "vhost 's3cret'", "user 's3cret'", "s3cret", "queue", "exchange 'e'")
)


@given(st.integers(0, 600), st.lists(_WORDS, max_size=4).map(" ".join), st.none() | st.just((60, 20)))
def test_no_reply_is_quoted(code: int, text: str, method: Any) -> None:
    """Whatever the text is: users, virtual hosts and a plugin's own words do not get into the sentence."""
    told = why(error_for_code(code, text, method, amqp.exceptions.ConnectionError))
    assert told
    assert "s3cret" not in told


def test_the_runbook_has_an_answer_to_every_sentence() -> None:
    """By words of the sentence; what has none is another's text, or the class of an unknown error."""
    rows = pages.table(pages.ROOT / "docs" / "runbook.md", "the sentence has")
    words = [each for row in rows for each in pages.code(row["the sentence has"])]
    told = [why(reply(code, text)) for code, text, _ in REPLIES] + [why(error) for error, _ in FAULTS]
    unanswered = {each for each in told if not any(word in each for word in words)}
    assert unanswered == {"as it is", "RecoverableConnectionError", "No route to host", "KeyError"}


def test_a_broker_that_wants_a_client_certificate_is_told_as_that() -> None:
    """By the alert of TLS 1.3; the setting is named."""
    error = ssl.SSLError(1, "text")
    error.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    assert why(error).startswith("the broker wants a client certificate (BROKER_CLIENT_CERT_FILE")
