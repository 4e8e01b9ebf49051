"""What came back over HTTP, in our own words: an answer, or a fault instead of one.

Nothing outside the Registry edge sees an httpx object; everything that decides about an
answer takes these values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class FaultKind(StrEnum):
    """Why there is no answer; the value is the ``detail`` of the outcome and a metric label."""

    CONNECT = "connect"  # refused, unreachable, DNS: the request was never sent
    CONNECT_TIMEOUT = "connect_timeout"  # never sent
    TLS = "tls"  # the certificate did not verify: never sent
    POOL_TIMEOUT = "pool_timeout"  # never sent
    PROXY = "proxy"  # the proxy's own answer to CONNECT, or none: never sent
    TIMEOUT = "timeout"  # the total deadline passed: perhaps processed
    READ = "read"  # connection lost while sending or reading: perhaps processed
    PROTOCOL = "protocol"  # not HTTP, or closed in the middle: perhaps processed
    TOO_LARGE = "too_large"  # the answer's body exceeds our bound: perhaps processed
    OTHER = "other"  # anything else the client raised: perhaps processed


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer. ``headers`` are those that are read, in lower case; ``body`` is bounded by the edge."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Fault:
    """No answer. ``detail`` is the exception's class name, never its text (it can quote values).

    Of a proxy that answered for itself it is the status.
    """

    kind: FaultKind
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What an answer says about the limit that all clients behind one address share.

    ``limit`` is that of a whole window (None when not given), ``remaining`` what was left
    of it when the answer was written, ``reset_in_seconds`` how long until it is full again.
    """

    limit: int | None
    remaining: int
    reset_in_seconds: float
