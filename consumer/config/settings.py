"""The settings: name, default, meaning, allowed values, and their description for help and documentation.

1. Each value is checked by itself here; combinations are checked in ``loading``.
2. Nothing is read from the environment: ``Settings(...)`` takes arguments only.
3. No message, ``repr`` or ``summary`` shows a value that could be a secret; wrong values are
   never quoted, because a secret is easily put into the wrong variable, and an address may hold a password.
4. A check raises ValueError with the end of a sentence ("must be ...").
"""

import re
import textwrap
from collections.abc import Iterator
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin
from urllib.parse import SplitResult, parse_qsl, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, SecretStr
from pydantic.fields import FieldInfo

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

REGISTRY_LIMIT_PER_MINUTE = 20_000  # documented by the Registry; counted per client address
_MOST_DELAYS, _DAY = 10, 86_400
_DELAYS = f"1 to {_MOST_DELAYS} whole numbers from 1 to {_DAY}, growing, separated by ','"


class _Allowed(NamedTuple):
    """What a value may be, where type and bounds do not say it."""

    text: str


def _readable(path: Path | None) -> Path | None:
    try:
        if path is not None:
            with path.open("rb") as file:
                file.read(1)
    except (OSError, ValueError):  # ValueError: a NUL in the name. The name may be a misplaced secret
        raise ValueError("names a file that does not exist or cannot be read") from None
    return path


def _header_safe(value: SecretStr | None) -> SecretStr | None:
    text = value.get_secret_value().strip() if value else ""
    if not re.fullmatch(r"[\x21-\x7e]*", text):
        raise ValueError(
            "must hold the token or key alone: no 'Bearer', no spaces, no characters outside ASCII"
        )
    return SecretStr(text) if text else None


def _amqp_name(value: str | None, most: int = 255) -> str | None:
    """Check a name against AMQP's short string: 255 bytes."""
    if value is not None:
        size = len(value.encode("utf-8", "surrogatepass"))
        if not 0 < size <= most or not value.isprintable():
            raise ValueError("is too long, empty or holds control characters")
    return value


def _queue_name(value: str) -> str:
    _amqp_name(value, 220)  # our own names add up to ".dead-letter.unauthorized"
    if value.startswith("amq."):
        raise ValueError("must not start with 'amq.': the broker reserves these names")
    return value


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


def split_urls(text: str) -> tuple[str, ...]:
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


def _registry_url(text: str) -> str:
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


def _proxy_url(value: SecretStr | None) -> SecretStr | None:
    """Check a proxy's address: http(s) and a host; user and password are allowed."""
    text = value.get_secret_value().strip() if value else ""
    parts = _split(text, _PROXY) if text else None
    if parts is not None and (parts.scheme not in {"http", "https"} or not parts.hostname):
        raise ValueError(_PROXY)
    return SecretStr(text) if text else None


def is_loopback(url: str) -> bool:
    """Whether the host of a checked URL can only be this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761, 6.3
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def without_secrets(url: str) -> str:
    """Return scheme, host, port and path of a checked URL: no user, password or parameter."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _delays(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _growing(value: tuple[int, ...]) -> tuple[int, ...]:
    growing = all(shorter < longer for shorter, longer in pairwise(value))
    if not (growing and 1 <= len(value) <= _MOST_DELAYS and 1 <= value[0] <= value[-1] <= _DAY):
        raise ValueError(f"must be {_DELAYS}")
    return value


_lower = BeforeValidator(lambda value: value.strip().lower() if isinstance(value, str) else value)
_upper = BeforeValidator(lambda value: value.strip().upper() if isinstance(value, str) else value)

_RegistryUrl = Annotated[str, AfterValidator(_registry_url), _Allowed("an address without version and route")]
_ProxyUrl = Annotated[SecretStr | None, AfterValidator(_proxy_url), _Allowed("an http(s) address")]
_BrokerUrl = Annotated[
    SecretStr,
    AfterValidator(lambda value: SecretStr(";".join(split_urls(value.get_secret_value())))),
    _Allowed("addresses like amqps://user:password@host:5671/vhost, or sqs://?region=eu-west-3"),
]
_Token = Annotated[SecretStr | None, AfterValidator(_header_safe), _Allowed("the token alone")]
_Key = Annotated[SecretStr | None, AfterValidator(_header_safe), _Allowed("the key alone")]
_File = Annotated[Path | None, AfterValidator(_readable), _Allowed("a readable file")]
_Mapping = Annotated[Path | None, _Allowed("a file, or the name of a mapping that is shipped")]
_Queue = Annotated[
    str,
    AfterValidator(_queue_name),
    _Allowed("1 to 220 bytes without control characters, not starting with 'amq.'"),
]
_Exchange = Annotated[str | None, AfterValidator(_amqp_name), _Allowed("a name of at most 255 bytes")]
_RoutingKey = Annotated[str | None, AfterValidator(_amqp_name), _Allowed("a key of at most 255 bytes")]
_Delays = Annotated[tuple[int, ...], BeforeValidator(_delays), AfterValidator(_growing), _Allowed(_DELAYS)]
_Address = Annotated[str, _Allowed("an address of this machine")]
_Version = Annotated[Literal["v2", "v3", "v3.2", "v3.3"], _lower]
_Level = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], _upper]
_Format = Annotated[Literal["json", "text"], _lower]
_Journeys = Annotated[Literal["all", "failures", "none"], _lower]


def _setting(default: Any, meaning: str) -> Any:
    return Field(default, description=meaning)


def _number(default: float, least: float, most: float, meaning: str) -> Any:
    return Field(default, ge=least, le=most, description=meaning)


class Settings(BaseModel):
    """All settings. A field's name is the variable's name in lower case. Durations are seconds."""

    model_config = ConfigDict(
        alias_generator=str.upper,
        populate_by_name=True,
        frozen=True,
        extra="forbid",
        str_strip_whitespace=True,
        validate_default=True,
        hide_input_in_errors=True,
    )
    _warnings: tuple[str, ...] = PrivateAttr(default=())

    registry_url: _RegistryUrl = _setting(
        "https://api.demo.covoiturage.beta.gouv.fr",
        "The Registry's address; the default is its pre-production.",
    )
    registry_api_version: _Version = _setting("v2", "Version of the API to send journeys to.")
    registry_token: _Token = _setting(
        None, "Application token. A file follows rotation; a variable does not."
    )
    registry_token_file: _File = _setting(None, "File of the application token; read again when it changes.")
    registry_access_key: _Key = _setting(None, "Access key to exchange for short-lived tokens (v3.3 only).")
    registry_access_key_file: _File = _setting(None, "File of the access key; read again when it changes.")
    registry_secret_key: _Key = _setting(None, "Secret key that belongs to the access key.")
    registry_secret_key_file: _File = _setting(None, "File of the secret key; read again when it changes.")
    registry_concurrency: int = _number(64, 1, 2000, "Maximum number of requests in flight.")
    registry_rate_per_minute: int = _number(
        REGISTRY_LIMIT_PER_MINUTE,
        1,
        10_000_000,
        "Maximum requests per minute of this process. The Registry's limit is 20,000 for all processes of "
        "one address: divide it by the number of replicas.",
    )
    registry_timeout_seconds: float = _number(10.0, 0.1, 120, "Deadline of one request, connecting included.")
    registry_connection_seconds: float = _number(
        60.0, 1, 3600, "Longest life of a connection to the Registry; then a change in DNS is followed."
    )
    registry_ca_file: _File = _setting(None, "CA certificates (PEM) for the Registry, not the system's.")
    registry_client_cert_file: _File = _setting(
        None, "Client certificate (PEM, with its chain) for the Registry; read again when it changes."
    )
    registry_client_key_file: _File = _setting(None, "Private key (PEM, not encrypted) of that certificate.")
    registry_proxy_url: _ProxyUrl = _setting(None, "HTTP proxy for the Registry. HTTPS_PROXY is not read.")
    registry_allow_http: bool = _setting(
        default=False,
        meaning="Allow plain http:// to another machine: token and journeys travel in the clear.",
    )

    broker_url: _BrokerUrl = _setting(
        SecretStr("amqp://guest:guest@localhost:5672//"),
        "The broker's address; several addresses for fail-over are separated by ';'.",
    )
    broker_queue: _Queue = _setting(
        "journeys.completed", "The queue to consume; its name is also the prefix of our own queues."
    )
    event_mapping_file: _Mapping = _setting(
        None, "How payloads are made of your own events: a file, or v2-to-v3.3. Unset: events are payloads."
    )
    broker_exchange: _Exchange = _setting(None, "The operator's exchange to bind the queue to.")
    broker_routing_key: _RoutingKey = _setting(None, "Routing key of that binding.")
    broker_declare: bool = _setting(
        default=True, meaning="Declare the missing queues; false: only verify that they exist."
    )
    broker_prefetch: int = Field(
        default_factory=lambda valid: 2 * int(valid["registry_concurrency"]),
        description="Maximum number of deliveries received and not yet settled.",
        ge=1,
        le=65_535,
    )
    broker_prefetch_bytes: int = _number(
        32 * 1024 * 1024,
        1024 * 1024,
        1024 * 1024 * 1024,
        "Bytes of deliveries not yet settled above which nothing more is read.",
    )
    broker_delivery_limit: int = _number(
        20, 2, 1000, "Deliveries after which a quorum queue that we declare dead-letters a message."
    )
    broker_ca_file: _File = _setting(None, "CA certificates (PEM) for amqps://, if not the system's.")
    broker_client_cert_file: _File = _setting(
        None, "Client certificate (PEM, with its chain) for amqps://; read again at each connection."
    )
    broker_client_key_file: _File = _setting(None, "Private key (PEM, not encrypted) of that certificate.")
    broker_require_tls: bool = _setting(
        default=False,
        meaning="Refuse amqp:// to another machine; recommended in production.",
    )
    broker_heartbeat_seconds: int = _number(30, 5, 300, "AMQP heartbeat on both connections.")
    broker_confirm_timeout_seconds: float = _number(30.0, 1, 300, "Timeout of the confirm of a publish.")

    retry_max_attempts: int = _number(
        75, 1, 10_000, "Attempts before a journey is dead-lettered as exhausted."
    )
    retry_attempts_per_visit: int = _number(3, 1, 20, "Attempts in a row before a delayed retry.")
    retry_backoff_base_seconds: float = _number(
        0.5, 0.01, 60, "First backoff in the process, before jitter; doubles each time."
    )
    retry_backoff_cap_seconds: float = _number(10.0, 0.01, 300, "Longest backoff in the process.")
    retry_delays_seconds: _Delays = _setting(
        (60, 300, 900, 3600),
        "Delays of the delay queues: first delayed retry, second, ...; the last one for all later.",
    )
    breaker_threshold: int = _number(10, 1, 10_000, "Consecutive failures after which the breaker opens.")
    breaker_probe_seconds: float = _number(
        5.0, 0.1, 3600, "Wait before the first probe of an open breaker; doubles with each failed probe."
    )
    breaker_probe_cap_seconds: float = _number(60.0, 0.1, 3600, "Longest wait between two probes.")
    auth_pause_after: int = _number(
        20, 1, 10_000, "Consecutive journeys answered 401 or 403 after which consumption pauses."
    )
    auth_probe_seconds: float = _number(
        60.0, 0.1, 3600, "Interval between two probes while the token is refused."
    )
    hold_limit_seconds: float = _number(
        600.0,
        1,
        1700,
        "Longest time that a delivery is held unacknowledged; below RabbitMQ's consumer_timeout (1800).",
    )
    early_bound_seconds: int = _number(
        86_400, 0, 604_800, "Longest wait for a journey that ends in the future; a later end is invalid."
    )
    drain_timeout_seconds: float = _number(
        25.0, 0, 3600, "Longest time to settle the deliveries in flight after SIGTERM."
    )

    dead_letters_return_unauthorized: bool = _setting(
        default=True, meaning="Replay unauthorized dead letters once a new token was accepted."
    )
    dead_letters_return_per_second: float = _number(
        10.0, 0.1, 10_000, "Maximum replays per second; other journeys come first."
    )
    dead_letters_look_seconds: float = _number(
        300.0, 0, 86_400, "Interval of reading the dead letters for their nearest deadline; 0: never."
    )
    dead_letters_unverified: bool = _setting(
        default=False,
        meaning="Read dead-letter queues whose delivery limit cannot be verified: `declare` created them.",
    )
    events_exchange: _Exchange = _setting(None, "Exchange for a CloudEvents message per final outcome.")

    http_host: _Address = _setting(
        "0.0.0.0",  # noqa: S104 - the kubelet and Prometheus come from outside; no personal data is served
        "Address that /metrics, /livez and /readyz listen on; '::' for IPv6 too, 127.0.0.1 for this machine.",
    )
    http_port: int = _number(8000, 0, 65_535, "Port of these endpoints; 0: any free port.")
    log_level: _Level = _setting("INFO", "Lowest level that is logged.")
    log_format: _Format = _setting("json", "One JSON object or one line of text per event.")
    log_journeys: _Journeys = _setting(
        "all", "Journeys with a log line of their own: all, failures (all but the registered), none."
    )

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about what is allowed but probably a mistake; for the log at start."""
        return self._warnings

    @property
    def broker_urls(self) -> tuple[str, ...]:
        """The broker's addresses, passwords included, in the order to try them."""
        return split_urls(self.broker_url.get_secret_value())

    @property
    def broker_addresses(self) -> tuple[str, ...]:
        """The broker's addresses without user, password and parameters, fit for logs."""
        return tuple(without_secrets(url) for url in self.broker_urls)

    def summary(self) -> dict[str, str | int | float | bool]:
        """Return what is set, for the log at start; a secret appears as ``"set"``."""
        shown: dict[str, str | int | float | bool] = {}
        for name, value in self:
            if isinstance(value, SecretStr):
                shown[name] = "set"
            elif value is not None:
                shown[name] = value if isinstance(value, str | int | float) else _as_variable(value)
        return shown | {"broker_url": ";".join(self.broker_addresses)}


def _as_variable(value: Any) -> str:
    """Write a value that is not secret as it would be set in the environment."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


class Description(NamedTuple):
    """One setting for people; ``default`` is empty when there is none."""

    name: str
    default: str
    allowed: str
    meaning: str


def allowed(field: FieldInfo) -> str:
    """Return what a value may be: ``a whole number from 1 to 65535``, ``one of json, text``, ..."""
    for rule in field.metadata:
        if isinstance(rule, _Allowed):
            return rule.text
    if get_origin(field.annotation) is Literal:
        return f"one of {', '.join(get_args(field.annotation))}"
    if field.annotation is bool:
        return "true or false"
    least, most = (
        next(getattr(rule, key) for rule in field.metadata if hasattr(rule, key)) for key in ("ge", "le")
    )
    return f"{'a whole number' if field.annotation is int else 'a number'} from {least} to {most}"


def described() -> Iterator[Description]:
    """Describe every setting in the order of the fields, then the secrets directory."""
    for name, field in Settings.model_fields.items():
        default = field.default
        if field.default_factory is not None:
            default = "twice REGISTRY_CONCURRENCY"
        elif isinstance(default, SecretStr):
            default = default.get_secret_value()  # a public default (guest), never a configured value
        default = "" if default is None else _as_variable(default)
        yield Description(name.upper(), default, allowed(field), field.description or "")
    yield Description(
        "SECRETS_DIR",
        "/run/secrets/journey-consumer, when it exists",
        "an existing directory",
        "Directory of files named like these variables, each holding one value; the environment wins.",
    )


def settings_reference(width: int = 100) -> str:
    """List all settings as text for ``journey-consumer run --help``."""
    lines = []
    for setting in described():
        default = f"  [{setting.default}]" if setting.default else ""
        lines.append(f"  {setting.name}{default}")
        text = f"{setting.meaning} ({setting.allowed})"
        lines.append(textwrap.fill(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6))
    return "\n".join(lines)
