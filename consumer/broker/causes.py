"""Why a connection, a channel or a request failed, as a sentence for a log line or a command's output. Pure.

1. RabbitMQ answers the same code to different troubles: 403 is a wrong password, a missing permission or an
   exclusive consumer elsewhere. Code and reply text together name the cause.
2. Reply texts are not quoted: their authors are the broker's plugins and whatever answers in its place. Only
   the name of a queue, an exchange or an argument, a permission and a time are taken out of them.
3. No sentence holds an address, a user or a password. An unknown error is its class, or its code.
"""

import re
import socket
import ssl

from amqp.exceptions import AMQPError, ConsumerCancelled

from consumer.errors import BrokerError

#: The broker's ``basic.cancel``.
CANCELLED = "consumer cancelled by the broker: the queue was deleted, or its leader moved to another node"
_LOGIN = "the broker refuses this user name and password"
_VHOST = "the virtual host does not exist, or this user has no access to it"
_DOWN = "the virtual host is down on this node"
_UNREADABLE = "protocol error ({code}): a frame cannot be read; does this port speak AMQP?"
#: Reply code, words of its text, sentence. The first row that fits; a row without words is the code's last.
_REPLIES: tuple[tuple[int, str, str], ...] = (
    (0, "timed out", "no answer in time"),
    (0, "already closed", "the connection is already closed"),
    (311, "", "a message is larger than the broker allows"),
    (320, "heartbeats? missed", "heartbeats missed: the broker hangs, or the network is cut"),
    (320, "", "the broker closed the connection: it is shutting down, or an operator closed it"),
    (403, "exclusive use", "{what} has an exclusive consumer elsewhere"),
    (403, r"access to (?!vhost)\w+ '.*refused", "this user lacks {permission} on {what}"),
    (403, "^$|Login was refused", _LOGIN),
    (403, "", "the broker refuses access (403)"),
    (404, "home node|stopped by supervisor", "{what} is on a node that is down"),
    (404, "no (?:queue|exchange)", "{what} does not exist"),
    (404, "", "a queue or exchange does not exist"),
    (405, "", "{what} is exclusive to another connection"),
    (406, "inequivalent arg", "{what} exists with another {argument}"),
    (406, "acknowledgement .*timed out", "a message was held longer than consumer_timeout{time}"),
    (406, "unknown delivery tag", "an acknowledgement names a delivery that the broker does not know"),
    (406, "invalid arg", "the broker does not accept the argument {argument} of {what}"),
    (406, "larger than", "a message is larger than the broker allows"),
    (406, "", "the broker refuses the arguments of a request (406)"),
    (501, "", _UNREADABLE),
    (502, "", _UNREADABLE),
    (503, "", _UNREADABLE),
    (504, "", "the broker has closed this channel (504)"),
    (505, "exceeds .* negotiated", "the broker sent a frame larger than negotiated"),
    (505, "", _UNREADABLE),
    (506, "", "the broker, or this connection, has no more channels or memory (506)"),
    (530, "limit", "the broker's limit of connections is reached"),
    (530, "vhost .*down", _DOWN),
    (530, "^$|vhost .*(?:not found|refused)", _VHOST),
    (530, "", "the broker does not allow this (530)"),
    (541, "vhost .*down", _DOWN),
    (541, "", "internal error of the broker (541): see its log"),
)  # fmt: skip
_NO_CERTIFICATE = "the broker wants a client certificate (BROKER_CLIENT_CERT_FILE, BROKER_CLIENT_KEY_FILE)"
_WHAT = re.compile(r"\b(queue|exchange) '([^']{0,255})'")
_ARGUMENT = re.compile(r"\barg '([\w-]{1,80})'")
_PERMISSION = re.compile(r"\b(configure|write|read) access to")
_TIME = re.compile(r"Timeout value used: (\d{1,12}) ms")


def why(error: BaseException) -> str:  # noqa: C901, PLR0911 - one row for each kind
    """The cause in words."""
    match error:
        case BrokerError():
            return str(error)
        case ConsumerCancelled() | ConnectionAbortedError(errno=None):  # py-amqp's, our own callbacks'
            return CANCELLED
        case AMQPError():
            return _reply(error)
        case ssl.SSLCertVerificationError():
            return f"the certificate is not accepted: {error.verify_message}"
        case ssl.SSLError():
            reason = getattr(error, "reason", None)  # unset when Python made the error itself
            wanted = "CERTIFICATE_REQUIRED" in (reason or "")
            return _NO_CERTIFICATE if wanted else f"TLS failed ({reason or type(error).__name__})"
        case socket.gaierror():
            return "the host name cannot be resolved"
        case TimeoutError():
            return "no answer in time"
        case ConnectionRefusedError():
            return "connection refused: no server listens on this address and port"
        case ConnectionResetError() | BrokenPipeError():
            return "the connection was cut by the broker or by the network"
        case OSError(errno=None):  # py-amqp's, at the end of the stream
            return "the connection was closed without a reason"
        case OSError(strerror=str(text)):
            return text
        case _:
            return type(error).__name__


def _reply(error: AMQPError) -> str:
    text, code = str(error.reply_text or ""), error.reply_code or error.code
    fitting = (sentence for each, words, sentence in _REPLIES if each == code and re.search(words, text))
    sentence = next(fitting, "the broker reports error {code}" if code else type(error).__name__)
    what, argument, permission, time = (
        pattern.search(text) for pattern in (_WHAT, _ARGUMENT, _PERMISSION, _TIME)
    )
    return sentence.format(
        code=code,
        what=f"the {what[1]} {what[2]!r}" if what else "a queue or exchange",
        argument=argument[1] if argument else "property",
        permission=f"the {permission[1]} permission" if permission else "a permission",
        time=f" ({int(time[1]) / 1000:g} s)" if time else "",
    )
