"""Every exception of the HTTP libraries has a row, and no row lets a text through."""

import inspect
import ssl

import httpx
import pyreqwest.exceptions
import pytest

from consumer.core.reply import Fault, FaultKind
from consumer.registry.client import FAULTS, fault_of
from consumer.registry.transport import TRANSLATION, TlsError, _translated

REQUEST = httpx.Request("POST", "http://localhost/v3/journeys")
NEVER_SENT = {FaultKind.CONNECT, FaultKind.CONNECT_TIMEOUT, FaultKind.TLS, FaultKind.POOL_TIMEOUT}


def exceptions_of(module: object) -> set[type[Exception]]:
    """All exception classes that a module offers."""
    return {found for _, found in inspect.getmembers(module, inspect.isclass) if issubclass(found, Exception)}


def descendants(root: type[Exception]) -> set[type[Exception]]:
    """The class and all its subclasses that the library itself defines."""
    own = {root} if root.__module__.split(".")[0] in {"httpx", "pyreqwest"} else set()
    return own.union(*(descendants(sub) for sub in root.__subclasses__()))


HTTPX = exceptions_of(httpx).union(
    *(descendants(root) for root in (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL))
)
PYREQWEST = descendants(pyreqwest.exceptions.PyreqwestError)


def test_the_walks_find_what_they_should() -> None:
    """The two walks are not empty: they see the classes that we know."""
    assert {httpx.ReadError, httpx.StreamConsumed, httpx.InvalidURL, httpx.CookieConflict} <= HTTPX
    assert {pyreqwest.exceptions.ConnectError, pyreqwest.exceptions.JSONDecodeError} <= PYREQWEST


@pytest.mark.parametrize("error", sorted(HTTPX, key=lambda cls: cls.__name__))
def test_every_exception_of_httpx_has_its_own_row(error: type[Exception]) -> None:
    """A new exception class in httpx fails here until it has a row."""
    assert error in FAULTS


@pytest.mark.parametrize("error", sorted(PYREQWEST, key=lambda cls: cls.__name__))
def test_every_exception_of_pyreqwest_is_translated(error: type[Exception]) -> None:
    """A new exception class in pyreqwest fails here until it has a row."""
    assert TRANSLATION[error] in FAULTS


def test_a_subclass_falls_to_its_nearest_row_and_only_its_name_is_told() -> None:
    """The fault names the class; the text, which may quote anything, is dropped."""

    class Strange(httpx.ReadTimeout):
        pass

    assert fault_of(Strange("secret text")) == Fault(FaultKind.TIMEOUT, "Strange")
    assert fault_of(ConnectionResetError("secret text")) == Fault(FaultKind.READ, "ConnectionResetError")
    assert fault_of(TimeoutError()) == Fault(FaultKind.TIMEOUT, "TimeoutError")


CONNECTING = "client error (Connect)"
SENDING = "client error (SendRequest)"


@pytest.mark.parametrize(
    ("error", "causes", "kind"),
    [
        (pyreqwest.exceptions.ConnectError, [CONNECTING, "tcp connect error"], FaultKind.CONNECT),
        (pyreqwest.exceptions.ConnectError, [CONNECTING, "tls handshake eof"], FaultKind.TLS),
        (pyreqwest.exceptions.ConnectError, [SENDING, "connection error"], FaultKind.READ),
        (pyreqwest.exceptions.ConnectError, None, FaultKind.READ),
        (pyreqwest.exceptions.ConnectTimeoutError, [CONNECTING], FaultKind.CONNECT_TIMEOUT),
        (pyreqwest.exceptions.ConnectTimeoutError, ["operation timed out"], FaultKind.TIMEOUT),
        (pyreqwest.exceptions.ConnectTimeoutError, None, FaultKind.TIMEOUT),
    ],
)
def test_never_sent_is_said_only_while_connecting(
    error: type[pyreqwest.exceptions.DetailedPyreqwestError], causes: list[str] | None, kind: FaultKind
) -> None:
    """Pyreqwest calls every lost connection a ConnectError; the causes tell which one was."""
    details = {"causes": None if causes is None else [{"message": text} for text in causes]}
    found = fault_of(_translated(error("text", details), REQUEST))  # type: ignore[arg-type]
    assert found.kind is kind


def test_only_failures_to_connect_claim_that_nothing_was_sent() -> None:
    """The rows of the table that claim it are exactly those of connecting and of our own pool."""
    assert {error for error, kind in FAULTS.items() if kind in NEVER_SENT} == {
        TlsError,
        ssl.SSLError,
        httpx.ConnectError,
        httpx.ConnectTimeout,
        httpx.PoolTimeout,
        httpx.ProxyError,
    }
