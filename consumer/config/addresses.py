"""Validates addresses, and shows them without their secrets.

Knows URLs as text only: no settings, no connections. Every function that validates raises ValueError
with the end of a sentence ("must be ...") that never quotes the text itself: the address of a broker
or a proxy holds a password.
"""

import re
from ipaddress import ip_address
from urllib.parse import SplitResult, parse_qsl, urlsplit

AMQP_SCHEMES = frozenset({"amqp", "amqps"})
_BROKER = "must be one or more addresses like amqps://user:password@host:5671/vhost, separated by ';'"
_SCHEMES = (
    "must be amqp://, amqps:// or sqs:// (memory:// for tests): other brokers can lose or repeat messages "
    "without end, so bridge their messages into RabbitMQ or SQS"
)
_NO_PARAMETERS = (
    "must have no '?' parameters: TLS, heartbeat and timeouts are settings (BROKER_CA_FILE, "
    "BROKER_HEARTBEAT_SECONDS, BROKER_CONFIRM_TIMEOUT_SECONDS)"
)
_SQS = "must be like sqs://?region=eu-west-3 or, for an endpoint, sqs://key:secret@host:port?region=eu-west-3"
_SQS_PARAMETERS = {"region": re.compile(r"[a-z0-9-]+"), "is_secure": re.compile("true|false")}
_REGISTRY = "must be an address like https://api.demo.covoiturage.beta.gouv.fr"
_PROXY = "must be an address like http://proxy.example:3128"
_ENCODE = "; a '/', '?', '#', '@' or ':' in a user name or password must be percent-encoded"
_UNSAFE = re.compile(r"[\x00-\x20\x7f-\U0010ffff]")
_ROUTE = re.compile(r"/v\d[\d.]*(/.*)?$|/journeys$")


def _split(text: str, complaint: str) -> SplitResult:
    """Split, or raise ValueError(complaint); urllib's own errors quote the text, hence `from None`."""
    if _UNSAFE.search(text):
        raise ValueError(complaint)
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - reading the port checks it
    except ValueError:
        raise ValueError(complaint + _ENCODE) from None
    if not parts.scheme or "://" not in text:
        raise ValueError(complaint)
    # An unencoded '/', '?' or '#' in a password ends the authority early: a part of the password would
    # be taken for the host name, looked up in DNS and shown in logs.
    if "@" in parts.path + parts.query + parts.fragment:
        raise ValueError(complaint + _ENCODE)
    return parts


def broker_urls(text: str) -> tuple[str, ...]:
    """Split fail-over addresses at ';' and check each: its scheme and its query parameters."""
    urls = tuple(part.strip() for part in text.split(";") if part.strip())
    if not urls:
        raise ValueError(_BROKER)
    parts = [_split(url, _BROKER) for url in urls]
    schemes = {part.scheme for part in parts}
    if not schemes <= AMQP_SCHEMES | {"memory", "sqs"}:
        raise ValueError(_SCHEMES)
    if len(urls) > 1 and not schemes <= AMQP_SCHEMES:
        raise ValueError("must be one address: several are tried in turn with amqp:// and amqps:// only")
    if schemes == {"sqs"}:
        _check_sqs(parts[0])
    elif any(part.query or part.fragment for part in parts):
        raise ValueError(_NO_PARAMETERS)
    return urls


def _check_sqs(parts: SplitResult) -> None:
    parameters = parse_qsl(parts.query, keep_blank_values=True)
    known = all(
        name in _SQS_PARAMETERS and _SQS_PARAMETERS[name].fullmatch(value) for name, value in parameters
    )
    if not known or len(dict(parameters)) < len(parameters) or parts.path.strip("/") or parts.fragment:
        raise ValueError(_SQS)
    if not parts.hostname and "is_secure" in dict(parameters):
        raise ValueError("must have a host for is_secure: AWS is always reached over TLS")


def registry_url(text: str) -> str:
    """The Registry's address without a slash at the end: http(s), a host, no credentials, no route."""
    parts = _split(text, _REGISTRY)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(_REGISTRY)
    if "@" in parts.netloc:
        raise ValueError(f"{_REGISTRY}, without user name or password")
    if parts.query or parts.fragment:
        raise ValueError(f"{_REGISTRY}, without '?' or '#'")
    if _ROUTE.search(parts.path.rstrip("/")):
        raise ValueError(f"{_REGISTRY}, without version and route (they follow REGISTRY_API_VERSION)")
    return text.rstrip("/")


def proxy_url(text: str) -> str:
    """A proxy's address: http(s) and a host; user and password are allowed."""
    parts = _split(text, _PROXY)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(_PROXY)
    return text


def is_loopback(url: str) -> bool:
    """Whether the host of a checked URL can only be this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761, 6.3
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def shown(url: str) -> str:
    """Return scheme, host, port and path of a checked URL: no user, password or parameter."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
