"""From the environment and the secrets directory to settings that go together, or to sentences.

The environment wins over a file of the same name in the secrets directory (the order of
pydantic-settings); an empty value counts as not set. The three Registry secrets are not copied out of the
directory: their ``_FILE`` setting is pointed at the file instead, so that a rotated secret is noticed.
Every mistake is told at once, each in one sentence that quotes no value.
"""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource

from consumer.config import addresses
from consumer.config.reference import allowed
from consumer.config.settings import REGISTRY_LIMIT_PER_MINUTE, Settings
from consumer.errors import ConfigurationError

DEFAULT_SECRETS_DIR = Path("/run/secrets/journey-consumer")
_NAMES = {name.upper(): field for name, field in Settings.model_fields.items()}
_READ_AGAIN = ("REGISTRY_TOKEN", "REGISTRY_ACCESS_KEY", "REGISTRY_SECRET_KEY")
_PRODUCTION = "api.covoiturage.beta.gouv.fr"
# What Kubernetes injects for a Service that happens to be called broker, registry, http, ...
_SERVICE_LINK = re.compile(r"_(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)$")
_NOT_OURS = frozenset({"HTTP_PROXY", "SECRETS_DIR"})
_WAYS = "one of REGISTRY_TOKEN, REGISTRY_TOKEN_FILE, or both REGISTRY_ACCESS_KEY and REGISTRY_SECRET_KEY"


def load(environ: Mapping[str, str], *, authentication: bool = True) -> Settings:
    """Return checked settings, or raise ConfigurationError with one sentence for each mistake.

    ``authentication=False`` is for commands that never speak to the Registry: they need no token.
    """
    problems: list[str] = []
    given = {name: value for name, value in environ.items() if name in _NAMES and value.strip()}
    files = _secret_files(environ.get("SECRETS_DIR", "").strip(), problems)
    warnings = [
        f"{name} is set both in the environment and in the secrets directory: the environment wins"
        for name in given
        if name in files
    ]
    values = {name: value for name, (_, value) in files.items() if name not in given} | given
    for name in _READ_AGAIN:
        if name in values and name not in given:
            del values[name]
            if values.setdefault(f"{name}_FILE", str(files[name][0])) in given.values():
                problems.append(
                    f"{name}_FILE is set, and the secrets directory holds {name}: keep one of them"
                )
    settings, wrong = _validate(values, problems)
    problems += [
        sentence
        for names, sentence in chain(
            _authentication(settings, required=authentication), _contradictions(settings), _sqs(settings)
        )
        if not wrong.intersection(names)
    ]
    if problems:
        raise ConfigurationError(problems)
    return settings.warned([*warnings, *_oddities(settings), *_near_misses(environ)])


def _secret_files(directory: str, problems: list[str]) -> dict[str, tuple[Path, str]]:
    """Read the secrets directory: path and stripped content by setting, empty files left out."""
    path = Path(directory) if directory else DEFAULT_SECRETS_DIR
    if not path.is_dir():
        if directory:
            problems.append("SECRETS_DIR must be an existing directory")
        return {}
    found = {}
    for name in _NAMES:
        file = path / name
        try:
            if file.is_file() and (value := file.read_text("utf-8").strip()):
                found[name] = (file, value)
        except (OSError, ValueError):  # ValueError: not UTF-8
            problems.append(f"{name}: its file in the secrets directory cannot be read as text")
    return found


def _validate(values: Mapping[str, str], problems: list[str]) -> tuple[Settings, set[str]]:
    """Build the settings; wrong ones are reported, named and left at their default."""
    source = EnvSettingsSource(Settings)
    source.env_vars = values
    arguments = source()
    try:
        return Settings(**arguments), set()
    except ValidationError as error:
        # A default that depends on a wrong value is no mistake of its own: its name is in lower case.
        found = {str(e["loc"][0]): e for e in error.errors(include_url=False) if e["loc"][0] in _NAMES}
        for name, details in found.items():
            own = details.get("ctx", {}).get("error")
            problems.append(f"{name} {own}" if own else f"{name} must be {allowed(_NAMES[name])}")
        return Settings(**{k: v for k, v in arguments.items() if k not in found}), set(found)


def _authentication(settings: Settings, *, required: bool) -> Iterator[tuple[set[str], str]]:
    """There is exactly one way to authenticate: the names involved and a sentence for each mistake."""
    s = settings
    credentials = {f"{name}{end}" for name in _READ_AGAIN for end in ("", "_FILE")}
    held = {name for name in credentials if getattr(s, name.lower())}
    for name in _READ_AGAIN:
        if {name, f"{name}_FILE"} <= held:
            yield {name, f"{name}_FILE"}, f"{name} and {name}_FILE are both set: keep one of them"
    token, access, secret = ({name, f"{name}_FILE"} & held for name in _READ_AGAIN)
    if token and (access or secret):
        yield credentials, f"several ways to authenticate are set: keep {_WAYS}"
    elif required and not held:
        yield credentials, f"no way to authenticate is set: set {_WAYS} (each also as a file)"
    elif bool(access) != bool(secret):
        yield credentials, "REGISTRY_ACCESS_KEY and REGISTRY_SECRET_KEY are only of use together: set both"
    elif access and s.registry_api_version != "v3.3":
        yield {"REGISTRY_API_VERSION"} | held, "access and secret key need REGISTRY_API_VERSION=v3.3"


def _contradictions(settings: Settings) -> Iterator[tuple[set[str], str]]:
    """Settings that cannot go together: the names involved and a sentence for each."""
    s = settings
    if urlsplit(s.registry_url).scheme == "http" and not (
        s.registry_allow_http or addresses.is_loopback(s.registry_url)
    ):
        yield (
            {"REGISTRY_URL", "REGISTRY_ALLOW_HTTP"},
            (
                "REGISTRY_URL must be https: plain http would show token and journeys to the network "
                "(REGISTRY_ALLOW_HTTP=true allows it)"
            ),
        )
    if s.broker_prefetch < s.registry_concurrency:
        yield (
            {"BROKER_PREFETCH", "REGISTRY_CONCURRENCY"},
            "BROKER_PREFETCH must be at least REGISTRY_CONCURRENCY, or requests wait for deliveries",
        )
    if s.broker_routing_key and not s.broker_exchange:
        yield {"BROKER_EXCHANGE", "BROKER_ROUTING_KEY"}, "BROKER_ROUTING_KEY needs BROKER_EXCHANGE"
    if s.events_exchange and s.events_exchange in {s.broker_exchange, f"{s.broker_queue}.dead-letter"}:
        yield (
            {"EVENTS_EXCHANGE", "BROKER_EXCHANGE", "BROKER_QUEUE"},
            "EVENTS_EXCHANGE leads to our own queues: events would be taken for journeys or dead letters",
        )
    for base, cap in (
        ("RETRY_BACKOFF_BASE_SECONDS", "RETRY_BACKOFF_CAP_SECONDS"),
        ("BREAKER_PROBE_SECONDS", "BREAKER_PROBE_CAP_SECONDS"),
    ):
        if getattr(s, base.lower()) > getattr(s, cap.lower()):
            yield {base, cap}, f"{base} must not exceed {cap}"
    visit = s.retry_attempts_per_visit * (s.registry_timeout_seconds + s.retry_backoff_cap_seconds)
    if visit > s.hold_limit_seconds:
        yield (
            {
                "HOLD_LIMIT_SECONDS",
                "RETRY_ATTEMPTS_PER_VISIT",
                "REGISTRY_TIMEOUT_SECONDS",
                "RETRY_BACKOFF_CAP_SECONDS",
            },
            (
                "HOLD_LIMIT_SECONDS must be at least RETRY_ATTEMPTS_PER_VISIT times "
                "(REGISTRY_TIMEOUT_SECONDS + RETRY_BACKOFF_CAP_SECONDS)"
            ),
        )


def _sqs(settings: Settings) -> Iterator[tuple[set[str], str]]:
    """What SQS needs: the names involved and a sentence for each mistake."""
    if not settings.broker_urls[0].startswith("sqs:"):
        return
    if find_spec("boto3") is None:
        yield {"BROKER_URL"}, "BROKER_URL: sqs:// needs boto3: pip install journey-consumer[sqs]"
    if not re.fullmatch(r"[\w.-]{1,53}", settings.broker_queue, re.ASCII):
        yield (
            {"BROKER_URL", "BROKER_QUEUE"},
            (
                "BROKER_QUEUE must be 1 to 53 letters, digits, '.', '_' or '-' with sqs:// "
                "(a queue's name has at most 80, our endings up to 27)"
            ),
        )


def _oddities(settings: Settings) -> Iterator[str]:
    """Tell what is allowed but probably not meant."""
    s = settings
    official = urlsplit(s.registry_url).hostname or ""
    if official == _PRODUCTION and s.registry_api_version == "v2":
        yield "REGISTRY_API_VERSION=v2 is no longer served by the Registry's production: use v3.3"
    if (
        official.endswith(".covoiturage.beta.gouv.fr")
        and s.registry_rate_per_minute > REGISTRY_LIMIT_PER_MINUTE
    ):
        yield f"REGISTRY_RATE_PER_MINUTE exceeds what the Registry allows ({REGISTRY_LIMIT_PER_MINUTE})"
    if urlsplit(s.registry_url).scheme == "http" and not addresses.is_loopback(s.registry_url):
        yield "REGISTRY_URL is plain http: token and journeys travel in the clear"
    if s.events_exchange and urlsplit(s.broker_urls[0]).scheme not in addresses.AMQP_SCHEMES:
        yield "EVENTS_EXCHANGE has no effect: outcome events need AMQP"
    if not s.broker_declare and urlsplit(s.broker_urls[0]).scheme not in addresses.AMQP_SCHEMES:
        yield "BROKER_DECLARE=false has no effect: only AMQP brokers can verify queues without creating them"
    if s.broker_exchange and not s.broker_declare:
        yield "BROKER_EXCHANGE has no effect while BROKER_DECLARE is false: nothing is bound"
    if s.broker_ca_file and not any(urlsplit(url).scheme == "amqps" for url in s.broker_urls):
        yield "BROKER_CA_FILE has no effect: no address in BROKER_URL is amqps://"
    if s.drain_timeout_seconds < s.registry_timeout_seconds:
        yield (
            "DRAIN_TIMEOUT_SECONDS is shorter than REGISTRY_TIMEOUT_SECONDS: "
            "requests in flight may be cut at shutdown and sent again"
        )


def _near_misses(environ: Mapping[str, str]) -> Iterator[str]:
    """Tell of variables that look like a misspelt setting.

    They are never refused: Kubernetes injects a variable for every Service it knows, and an
    operator's image may hold variables of its own.
    """
    for name in sorted(environ):
        if name in _NAMES or name in _NOT_OURS or _SERVICE_LINK.search(name):
            continue
        if close := get_close_matches(name.upper(), _NAMES, n=1, cutoff=0.85):
            yield f"{name} is not a setting: did you mean {close[0]}?"
