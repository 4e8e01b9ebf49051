"""Every exception of the HTTP library has a row, and no row lets a text through."""

import inspect
import ssl

import httpx
import pytest

from consumer.core.reply import Fault, FaultKind
from consumer.registry.client import FAULTS, fault_of
from consumer.registry.transport import ClientCertificateError, TlsError

NEVER_SENT = {
    FaultKind.CONNECT,
    FaultKind.CONNECT_TIMEOUT,
    FaultKind.TLS,
    FaultKind.POOL_TIMEOUT,
    FaultKind.PROXY,
}


def exceptions_of(module: object) -> set[type[Exception]]:
    """All exception classes that a module offers."""
    return {found for _, found in inspect.getmembers(module, inspect.isclass) if issubclass(found, Exception)}


def descendants(root: type[Exception]) -> set[type[Exception]]:
    """The class and all its subclasses that the library itself defines."""
    own = {root} if root.__module__.split(".")[0] == "httpx" else set()
    return own.union(*(descendants(sub) for sub in root.__subclasses__()))


HTTPX = exceptions_of(httpx).union(
    *(descendants(root) for root in (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL))
)


def test_the_walks_find_what_they_should() -> None:
    """They are not empty: they see the classes that we know."""
    assert {httpx.ReadError, httpx.StreamConsumed, httpx.InvalidURL, httpx.CookieConflict} <= HTTPX


@pytest.mark.parametrize("error", sorted(HTTPX, key=lambda cls: cls.__name__))
def test_every_exception_of_httpx_has_its_own_row(error: type[Exception]) -> None:
    """A new exception class in httpx fails here until it has a row."""
    assert error in FAULTS


def test_a_subclass_falls_to_its_nearest_row_and_only_its_name_is_told() -> None:
    """The fault names the class; the text, which may quote anything, is dropped."""

    class Strange(httpx.ReadTimeout):
        pass

    assert fault_of(Strange("secret text")) == Fault(FaultKind.TIMEOUT, "Strange")
    assert fault_of(ConnectionResetError("secret text")) == Fault(FaultKind.READ, "ConnectionResetError")
    assert fault_of(TimeoutError()) == Fault(FaultKind.TIMEOUT, "TimeoutError")


@pytest.mark.parametrize(
    ("reason", "detail"),
    [
        ("CERTIFICATE_VERIFY_FAILED", "TlsError"),
        ("WRONG_VERSION_NUMBER", "TlsError"),
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", "TlsError"),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "ClientCertificateError"),
        ("TLSV1_ALERT_UNKNOWN_CA", "ClientCertificateError"),
        ("SSLV3_ALERT_BAD_CERTIFICATE", "ClientCertificateError"),
    ],
)
def test_httpx_hides_a_failed_handshake_in_the_cause(reason: str, detail: str) -> None:
    """It raises a ConnectError for a refused port and for a refused certificate alike."""
    inner = ssl.SSLError(1, "secret text")
    inner.reason = reason
    outer = httpx.ConnectError("secret text")
    outer.__cause__ = inner
    assert fault_of(outer) == Fault(FaultKind.TLS, detail)
    assert fault_of(httpx.ConnectError("secret text")) == Fault(FaultKind.CONNECT, "ConnectError")


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("407 Proxy Authentication Required", "407"),
        ("502 ", "502"),
        ("secret text", "ProxyError"),
        ("", "ProxyError"),
    ],
)
def test_a_proxys_status_is_all_that_is_told_of_its_answer(text: str, detail: str) -> None:
    """Httpx has it in the text only."""
    assert fault_of(httpx.ProxyError(text)) == Fault(FaultKind.PROXY, detail)


def test_only_failures_to_connect_claim_that_nothing_was_sent() -> None:
    """The rows of the table that claim it are exactly those of connecting and of our own pool."""
    assert {error for error, kind in FAULTS.items() if kind in NEVER_SENT} == {
        TlsError,
        ClientCertificateError,
        ssl.SSLError,
        httpx.ConnectError,
        httpx.ConnectTimeout,
        httpx.PoolTimeout,
        httpx.ProxyError,
    }
