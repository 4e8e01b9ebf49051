"""The settings themselves: name, default, meaning and what each value may be.

1. Each value is checked by itself here; how they go together is checked in ``loading``.
2. Nothing is read from the environment: ``Settings(...)`` takes arguments only.
3. No message, ``repr`` or ``summary`` shows a value that could be a secret; mistaken values are
   never quoted, because a secret is easily put into the wrong variable.
4. The help text and docs/configuration.md are generated from the fields (``reference``).
"""

import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from consumer.config import addresses

REGISTRY_LIMIT_PER_MINUTE = 20_000  # documented by the Registry; counted per client address
_MOST_DELAYS, _DAY = 10, 86_400
_DELAYS = f"1 to {_MOST_DELAYS} whole numbers from 1 to {_DAY}, growing, separated by ','"


def _setting(default: Any, meaning: str, allowed: str = "", **bounds: Any) -> Any:
    """Describe one setting; ``allowed`` is derived from type and bounds when not given."""
    return Field(default, description=meaning, json_schema_extra={"allowed": allowed}, **bounds)


def _twice_the_concurrency(values: dict[str, Any]) -> int:
    return 2 * int(values["registry_concurrency"])


class Settings(BaseSettings):
    """Every setting, checked one by one; ``load`` also checks them against each other.

    A field's name is the variable's name in lower case. Durations are seconds.
    """

    model_config = SettingsConfigDict(
        alias_generator=str.upper,
        populate_by_name=True,
        case_sensitive=True,
        frozen=True,
        extra="forbid",
        str_strip_whitespace=True,
        hide_input_in_errors=True,
    )
    _warnings: tuple[str, ...] = PrivateAttr(default=())

    registry_url: str = _setting(
        "https://api.demo.covoiturage.beta.gouv.fr",
        "The Registry's address; the default is its pre-production.",
        "an address without version and route",
    )
    registry_api_version: Literal["v2", "v3", "v3.2", "v3.3"] = _setting("v2", "Version to send journeys to.")
    registry_token: SecretStr | None = _setting(
        None, "Application token. A file follows rotation; a variable does not.", "the token alone"
    )
    registry_token_file: Path | None = _setting(
        None, "File that holds the application token; read again when it changes.", "a readable file"
    )
    registry_access_key: SecretStr | None = _setting(
        None, "Access key to exchange for short-lived tokens (v3.3 only).", "the key alone"
    )
    registry_access_key_file: Path | None = _setting(
        None, "File that holds the access key; read again when it changes.", "a readable file"
    )
    registry_secret_key: SecretStr | None = _setting(
        None, "Secret key that belongs to the access key.", "the key alone"
    )
    registry_secret_key_file: Path | None = _setting(
        None, "File that holds the secret key; read again when it changes.", "a readable file"
    )
    registry_concurrency: int = _setting(64, "Most requests in flight at once.", ge=1, le=2000)
    registry_rate_per_minute: int = _setting(
        REGISTRY_LIMIT_PER_MINUTE,
        "Most requests a minute of this process. The Registry's limit is 20,000 for all processes behind "
        "one address: divide it by the number of replicas.",
        ge=1,
        le=10_000_000,
    )
    registry_timeout_seconds: float = _setting(
        10.0, "Total deadline of one request, connecting included.", ge=0.1, le=120
    )
    registry_ca_file: Path | None = _setting(
        None, "Certificates (PEM) to trust for the Registry instead of the usual ones.", "a readable file"
    )
    registry_proxy_url: SecretStr | None = _setting(
        None, "HTTP proxy to reach the Registry through. HTTPS_PROXY is not read.", "an http(s) address"
    )
    registry_allow_http: bool = _setting(
        default=False,
        meaning="Allow plain http:// to another machine: token and journeys travel in the clear.",
    )

    broker_url: SecretStr = _setting(
        SecretStr("amqp://guest:guest@localhost:5672//"),
        "The broker; several addresses for fail-over are separated by ';'.",
        "addresses like amqps://user:password@host:5671/vhost, or sqs://?region=eu-west-3",
    )
    broker_queue: str = _setting(
        "journeys.completed",
        "The queue to consume; also the first part of the names of our own queues.",
        "1 to 220 bytes without control characters, not starting with 'amq.'",
    )
    broker_exchange: str | None = _setting(
        None, "The operator's exchange to bind the queue to.", "a name of at most 255 bytes"
    )
    broker_routing_key: str | None = _setting(
        None, "Routing key of that binding.", "a key of at most 255 bytes"
    )
    broker_declare: bool = _setting(
        default=True, meaning="Declare the queues that are missing; false: only verify that they exist."
    )
    broker_prefetch: int = Field(
        default_factory=_twice_the_concurrency,
        description="Most deliveries taken from the broker and not yet settled.",
        ge=1,
        le=65_535,
    )
    broker_delivery_limit: int = _setting(
        20, "Deliveries after which a quorum queue that we declare gives a message up.", ge=2, le=1000
    )
    broker_ca_file: Path | None = _setting(
        None, "Certificates (PEM) to trust for amqps:// instead of the usual ones.", "a readable file"
    )
    broker_heartbeat_seconds: int = _setting(30, "AMQP heartbeat on both connections.", ge=5, le=300)
    broker_confirm_timeout_seconds: float = _setting(
        30.0, "Longest wait for the broker's confirm of a publish.", ge=1, le=300
    )

    retry_max_attempts: int = _setting(
        75, "Submissions of one journey before it is dead-lettered as exhausted.", ge=1, le=10_000
    )
    retry_attempts_per_visit: int = _setting(
        3, "Submissions in a row before the journey goes to a delay queue.", ge=1, le=20
    )
    retry_backoff_base_seconds: float = _setting(
        0.5, "First in-process wait (before jitter); doubles each time.", ge=0.01, le=60
    )
    retry_backoff_cap_seconds: float = _setting(10.0, "Longest in-process wait.", ge=0.01, le=300)
    retry_delays_seconds: Annotated[tuple[int, ...], NoDecode] = _setting(
        (60, 300, 900, 3600),
        "The delay queues: first return, second return, ...; the last one serves all later returns.",
        _DELAYS,
    )
    breaker_threshold: int = _setting(
        10, "Failures in a row after which the Registry counts as down.", ge=1, le=10_000
    )
    breaker_probe_seconds: float = _setting(
        5.0, "Wait before the first probe of a Registry that is down; doubles.", ge=0.1, le=3600
    )
    breaker_probe_cap_seconds: float = _setting(60.0, "Longest wait between two probes.", ge=0.1, le=3600)
    auth_pause_after: int = _setting(
        20, "Journeys refused for the token (401, 403) in a row before consumption pauses.", ge=1, le=10_000
    )
    auth_probe_seconds: float = _setting(
        60.0, "Time between two probes while the token is refused.", ge=0.1, le=3600
    )
    hold_limit_seconds: float = _setting(
        600.0,
        "Longest time a delivery is held unacknowledged; below RabbitMQ's consumer_timeout (1800).",
        ge=1,
        le=1700,
    )
    early_bound_seconds: int = _setting(
        86_400, "Longest wait for a journey that ends in the future; 0: none.", ge=0, le=604_800
    )
    drain_timeout_seconds: float = _setting(
        25.0, "Longest time to finish what is in flight after SIGTERM.", ge=0, le=3600
    )

    dead_letters_return_unauthorized: bool = _setting(
        default=True, meaning="Send unauthorized dead letters again once a new token was accepted."
    )
    dead_letters_return_per_second: float = _setting(
        10.0, "Most of them a second, behind fresh journeys.", ge=0.1, le=10_000
    )
    dead_letters_look_seconds: float = _setting(
        300.0, "Time between two looks for the dead letters' nearest deadline; 0: never.", ge=0, le=86_400
    )
    dead_letters_unverified: bool = _setting(
        default=False,
        meaning="`declare` made the dead-letter queues: look, though we may not ask for their limit.",
    )
    events_exchange: str | None = _setting(
        None, "Exchange for a CloudEvents message for each final outcome.", "a name of at most 255 bytes"
    )

    http_host: str = _setting(
        "0.0.0.0",  # noqa: S104 - the kubelet and Prometheus come from outside; no personal data is served
        "Address that /metrics, /livez and /readyz listen on; '::' for IPv6 too, 127.0.0.1 for this machine.",
        "an address of this machine",
    )
    http_port: int = _setting(8000, "Their port; 0 takes any free one.", ge=0, le=65_535)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = _setting("INFO", "Least level that is logged.")
    log_format: Literal["json", "text"] = _setting("json", "One JSON object or one line of text per event.")

    @classmethod
    def settings_customise_sources(cls, *_: Any, **sources: Any) -> tuple[Any, ...]:
        """Take arguments only: the environment comes in through ``load``, never by itself."""
        return (sources["init_settings"],)

    @field_validator("registry_url")
    @classmethod
    def _check_registry_url(cls, value: str) -> str:
        return addresses.registry_url(value)

    @field_validator("registry_proxy_url")
    @classmethod
    def _check_proxy_url(cls, value: SecretStr | None) -> SecretStr | None:
        return value and SecretStr(addresses.proxy_url(value.get_secret_value().strip()))

    @field_validator("broker_url")
    @classmethod
    def _check_broker_url(cls, value: SecretStr) -> SecretStr:
        return SecretStr(";".join(addresses.broker_urls(value.get_secret_value())))

    @field_validator("registry_token", "registry_access_key", "registry_secret_key")
    @classmethod
    def _check_header_safe(cls, value: SecretStr | None) -> SecretStr | None:
        text = value.get_secret_value().strip() if value else ""
        if not re.fullmatch(r"[\x21-\x7e]*", text):
            raise ValueError(
                "must hold the token or key alone: no 'Bearer', no spaces, no characters outside ASCII"
            )
        return SecretStr(text) if text else None

    @field_validator("broker_queue", "broker_exchange", "broker_routing_key", "events_exchange")
    @classmethod
    def _check_amqp_name(cls, value: str | None, info: Any) -> str | None:
        # Names are AMQP short strings (255 bytes); our own add up to ".dead-letter.unauthorized".
        own = info.field_name == "broker_queue"
        size = len((value or "x").encode("utf-8", "surrogatepass"))
        if size > (220 if own else 255) or not (value or "x").isprintable() or (own and not value):
            raise ValueError("is too long, empty or holds control characters")
        if own and value and value.startswith("amq."):
            raise ValueError("must not start with 'amq.': the broker reserves these names")
        return value

    @field_validator("retry_delays_seconds", mode="before")
    @classmethod
    def _split_delays(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("retry_delays_seconds")
    @classmethod
    def _check_delays(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        growing = all(shorter < longer for shorter, longer in pairwise(value))
        if not (growing and 1 <= len(value) <= _MOST_DELAYS and 1 <= value[0] <= value[-1] <= _DAY):
            raise ValueError(f"must be {_DELAYS}")
        return value

    @field_validator("log_level", "log_format", "registry_api_version", mode="before")
    @classmethod
    def _ignore_case(cls, value: Any, info: Any) -> Any:
        if not isinstance(value, str):
            return value
        return value.strip().upper() if info.field_name == "log_level" else value.strip().lower()

    @field_validator(
        "registry_token_file",
        "registry_access_key_file",
        "registry_secret_key_file",
        "registry_ca_file",
        "broker_ca_file",
    )
    @classmethod
    def _check_readable(cls, value: Path | None) -> Path | None:
        try:
            if value is not None:
                with value.open("rb") as file:
                    file.read(1)
        except (OSError, ValueError):  # ValueError: a NUL in the name. The name may be a secret put amiss
            raise ValueError("names a file that does not exist or cannot be read") from None
        return value

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about what is allowed but probably not meant; for the log at start."""
        return self._warnings

    def warned(self, sentences: list[str]) -> "Settings":
        """Return the same settings with these warnings."""
        settings = self.model_copy()
        settings._warnings = tuple(sentences)  # noqa: SLF001 - our own copy
        return settings

    @property
    def broker_urls(self) -> tuple[str, ...]:
        """The broker's addresses, passwords included, in the order to try them."""
        return addresses.broker_urls(self.broker_url.get_secret_value())

    @property
    def broker_addresses(self) -> tuple[str, ...]:
        """The broker's addresses without user, password and parameters, fit for logs."""
        return tuple(addresses.shown(url) for url in self.broker_urls)

    def summary(self) -> dict[str, str | int | float | bool]:
        """Return what is set, for the log at start; a secret appears as ``"set"``."""
        told: dict[str, str | int | float | bool] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name == "broker_url":
                told[name] = ";".join(self.broker_addresses)
            elif isinstance(value, SecretStr):
                told[name] = "set"
            elif value is not None:
                told[name] = value if isinstance(value, str | int | float) else plain(value)
        return told


def plain(value: Any) -> str:
    """Write a default or a value that is not secret as it would be set in the environment."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
