"""What an address may look like, and how to show one without its secrets.

Knows URLs as text only: no settings, no connections. Every function that checks raises
ValueError with the end of a sentence ("must be ...") that never quotes the text itself,
because a broker's or a proxy's address holds a password.
"""

import re
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

#: Of the addresses of brokers that fail over; any other names one of kombu's virtual transports.
AMQP_SCHEMES = frozenset({"amqp", "amqps", "pyamqp"})
_BROKER = "must be one or more addresses like amqps://user:password@host:5671/vhost, separated by ';'"
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
    # An unencoded '/', '?' or '#' in a password ends the authority early, so that a part of the
    # password would be taken for the host name: it would be looked up in DNS and shown in logs.
    if "@" in parts.path + parts.query + parts.fragment:
        raise ValueError(complaint + _ENCODE)
    return parts


def broker_urls(text: str) -> tuple[str, ...]:
    """Split fail-over addresses at ';' and check each; any kombu transport's scheme is let through."""
    urls = tuple(part.strip() for part in text.split(";") if part.strip())
    if not urls:
        raise ValueError(_BROKER)
    schemes = {_split(url, _BROKER).scheme for url in urls}
    if len(urls) > 1 and not schemes <= AMQP_SCHEMES:
        raise ValueError("must be one address: several are tried in turn with amqp:// and amqps:// only")
    return urls


def registry_url(text: str) -> str:
    """Check the Registry's address: http(s), a host, no credentials, no route; no slash at the end."""
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
    """Check a proxy's address: http(s) and a host; user and password are allowed."""
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
