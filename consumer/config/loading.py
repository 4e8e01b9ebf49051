"""From the environment and the secrets directory to settings that fit together, or to sentences.

The environment wins over a file of the same name in the secrets directory; an empty value counts as not
set. The three Registry secrets are not copied out of the directory: their ``_FILE`` setting is pointed at
the file instead, so that a rotated secret is noticed. All mistakes are reported together, each in one
sentence that quotes no value. Only what the command reads is judged: a setting of others is as if not set.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError

from consumer.config.settings import AMQP_SCHEMES, REGISTRY_LIMIT_PER_MINUTE, Settings, allowed, is_loopback
from consumer.errors import ConfigurationError

DEFAULT_SECRETS_DIR = Path("/run/secrets/journey-consumer")
_NAMES = {name.upper(): field for name, field in Settings.model_fields.items()}
_OF_OUR_QUEUES = frozenset(
    {"BROKER_EXCHANGE", "BROKER_ROUTING_KEY", "BROKER_DELIVERY_LIMIT", "RETRY_DELAYS_SECONDS"}
)
_OF_CONSUMING = frozenset({"BROKER_PREFETCH", "BROKER_DECLARE"})
#: What a command reads: all settings, a connection to the broker, that and our queues, the Registry.
ALL = frozenset(_NAMES)
BROKER = frozenset(name for name in _NAMES if name.startswith("BROKER_")) - _OF_OUR_QUEUES - _OF_CONSUMING
TOPOLOGY = BROKER | _OF_OUR_QUEUES
REGISTRY = frozenset(name for name in _NAMES if name.startswith("REGISTRY_")) | {"EVENT_MAPPING_FILE"}
_ROTATED = ("REGISTRY_TOKEN", "REGISTRY_ACCESS_KEY", "REGISTRY_SECRET_KEY")
_PRODUCTION = "api.covoiturage.beta.gouv.fr"
# What Kubernetes injects for a Service that happens to be called broker, registry, http, ...
_SERVICE_LINK = re.compile(r"_(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)$")
_PROXIES = {"http": ("HTTP_PROXY", "ALL_PROXY"), "https": ("HTTPS_PROXY", "ALL_PROXY")}
_NOT_OURS = frozenset({"HTTP_PROXY", "SECRETS_DIR"})
_WAYS = "one of REGISTRY_TOKEN, REGISTRY_TOKEN_FILE, or both REGISTRY_ACCESS_KEY and REGISTRY_SECRET_KEY"


def load(environ: Mapping[str, str], reads: Collection[str] = ALL) -> Settings:
    """Return checked settings, or raise ConfigurationError with one sentence for each mistake.

    ``reads`` are the settings that the command uses: only those, and conflicts among those, are judged, and
    a token is needed by those that read one. The others have their defaults.
    """
    problems: list[str] = []
    warnings: list[str] = []
    wanted = [name for name in _NAMES if name in reads]
    given = {name: value for name in wanted if (value := environ.get(name, "").strip())}
    values = dict(given)
    for name, (path, value) in _secret_files(
        environ.get("SECRETS_DIR", "").strip(), wanted, problems
    ).items():
        if name in given:
            warnings.append(
                f"{name} is set both in the environment and in the secrets directory: the environment wins"
            )
        elif name not in _ROTATED:
            values[name] = value
        elif f"{name}_FILE" in given:
            problems.append(f"{name}_FILE is set, and the secrets directory holds {name}: keep one of them")
        else:
            values[f"{name}_FILE"] = str(path)
    settings, wrong = _validate(values, problems)
    conflicts = (
        *_authentication(settings),
        *_contradictions(settings),
        *_tls(settings),
        *_sqs(settings),
        *_mapping(settings),
    )
    # A conflict with a setting that is wrong by itself may be one with its default only.
    problems += [
        sentence for sentence in conflicts if not wrong & _named(sentence) and _concerns(sentence, reads)
    ]
    misspelt = tuple(near_misses(environ, reads))
    if problems:  # what looks like a misspelt setting may be why another one is missing
        raise ConfigurationError([*problems, *misspelt])
    odd = (*_oddities(settings), *_unused_tls(settings), *_unused_proxy(settings, environ))
    settings._warnings = (  # noqa: SLF001
        *warnings,
        *(sentence for sentence in odd if _concerns(sentence, reads)),
        *misspelt,
    )
    return settings


def _secret_files(directory: str, names: Collection[str], problems: list[str]) -> dict[str, tuple[Path, str]]:
    """Read the secrets directory: path and stripped content by setting, empty files left out."""
    path = Path(directory) if directory else DEFAULT_SECRETS_DIR
    if not path.is_dir():
        if directory:
            problems.append("SECRETS_DIR must be an existing directory")
        return {}
    found = {}
    for name in names:
        file = path / name
        try:
            if file.is_file() and (value := file.read_text("utf-8").strip()):
                found[name] = (file, value)
        except (OSError, ValueError):  # ValueError: not UTF-8
            problems.append(f"{name}: its file in the secrets directory cannot be read as text")
    return found


def _validate(values: Mapping[str, str], problems: list[str]) -> tuple[Settings, set[str]]:
    """Build the settings; wrong ones are reported, returned by name and left at their default."""
    try:
        return Settings.model_validate(values), set()
    except ValidationError as error:
        # A default that depends on a wrong value is no mistake of its own: its name is in lower case.
        found = {str(e["loc"][0]): e for e in error.errors(include_url=False) if e["loc"][0] in _NAMES}
        for name, details in found.items():
            own = details.get("ctx", {}).get("error")
            problems.append(f"{name} {own}" if own else f"{name} must be {allowed(_NAMES[name])}")
        return Settings.model_validate({k: v for k, v in values.items() if k not in found}), set(found)


def _named(sentence: str) -> set[str]:
    """Return the settings that a sentence names, each with the setting of its file."""
    names = re.findall(r"[A-Z]+(?:_[A-Z]+)+", sentence)
    return {*names, *(f"{name}_FILE" for name in names)}


def _concerns(sentence: str, reads: Collection[str]) -> bool:
    """Whether all settings that a sentence names are read."""
    return (_named(sentence) & ALL).issubset(reads)


def _mapping(settings: Settings) -> Iterator[str]:
    """Check the file that maps events to payloads."""
    if settings.event_mapping_file is None:
        return
    from consumer.core.mapping import load as load_mapping  # noqa: PLC0415 - only for those who use one

    try:
        load_mapping(settings.event_mapping_file, "v2" if settings.registry_api_version == "v2" else "v3")
    except ConfigurationError as error:
        yield from (f"EVENT_MAPPING_FILE: {problem}" for problem in error.problems)


def _authentication(settings: Settings) -> Iterator[str]:
    """Check that there is exactly one way to authenticate."""
    ways = [
        [name for name in (secret, f"{secret}_FILE") if getattr(settings, name.lower())]
        for secret in _ROTATED
    ]
    for both in ways:
        if len(both) > 1:
            yield f"{both[0]} and {both[1]} are both set: keep one of them"
    token, access, secret = map(bool, ways)
    if token and (access or secret):
        yield f"several ways to authenticate are set: keep {_WAYS}"
    elif not any(ways):
        yield f"no way to authenticate is set: set {_WAYS} (each also as a file)"
    elif access != secret:
        yield "REGISTRY_ACCESS_KEY and REGISTRY_SECRET_KEY are only of use together: set both"
    elif access and settings.registry_api_version != "v3.3":
        yield "REGISTRY_ACCESS_KEY and REGISTRY_SECRET_KEY need REGISTRY_API_VERSION=v3.3"


def _contradictions(settings: Settings) -> Iterator[str]:
    s = settings
    if _is_plain_http(s) and not s.registry_allow_http:
        yield (
            "REGISTRY_URL must be https: plain http would show token and journeys to the network "
            "(REGISTRY_ALLOW_HTTP=true allows it)"
        )
    if s.broker_prefetch < s.registry_concurrency:
        yield "BROKER_PREFETCH must be at least REGISTRY_CONCURRENCY, or requests wait for deliveries"
    if s.broker_routing_key and not s.broker_exchange:
        yield "BROKER_ROUTING_KEY needs BROKER_EXCHANGE"
    if s.events_exchange and s.events_exchange in {s.broker_exchange, f"{s.broker_queue}.dead-letter"}:
        yield (
            "EVENTS_EXCHANGE leads to our own queues (BROKER_EXCHANGE, BROKER_QUEUE): events would be "
            "consumed as journeys or dead letters"
        )
    for base, cap in (
        ("RETRY_BACKOFF_BASE_SECONDS", "RETRY_BACKOFF_CAP_SECONDS"),
        ("BREAKER_PROBE_SECONDS", "BREAKER_PROBE_CAP_SECONDS"),
    ):
        if getattr(s, base.lower()) > getattr(s, cap.lower()):
            yield f"{base} must not exceed {cap}"
    longest = s.retry_attempts_per_visit * (s.registry_timeout_seconds + s.retry_backoff_cap_seconds)
    if longest > s.hold_limit_seconds:
        yield (
            "HOLD_LIMIT_SECONDS must be at least RETRY_ATTEMPTS_PER_VISIT times "
            "(REGISTRY_TIMEOUT_SECONDS + RETRY_BACKOFF_CAP_SECONDS)"
        )


def _is_plain_http(settings: Settings) -> bool:
    url = settings.registry_url
    return urlsplit(url).scheme == "http" and not is_loopback(url)


def _tls(settings: Settings) -> Iterator[str]:
    if settings.broker_require_tls and _is_plain_amqp(settings):
        yield "BROKER_URL must be amqps: BROKER_REQUIRE_TLS refuses amqp:// to another machine"
    for name in ("REGISTRY_CLIENT", "BROKER_CLIENT"):
        cert, key = (getattr(settings, f"{name}_{part}_FILE".lower()) for part in ("CERT", "KEY"))
        if (cert is None) != (key is None):
            yield f"{name}_CERT_FILE and {name}_KEY_FILE are only of use together: set both"


def _is_plain_amqp(settings: Settings) -> bool:
    return any(urlsplit(url).scheme == "amqp" and not is_loopback(url) for url in settings.broker_urls)


def _sqs(settings: Settings) -> Iterator[str]:
    """Yield a sentence for each thing that SQS lacks."""
    if not settings.broker_urls[0].startswith("sqs:"):
        return
    if find_spec("boto3") is None:
        yield "BROKER_URL: sqs:// needs boto3: pip install journey-consumer[sqs]"
    if not re.fullmatch(r"[\w.-]{1,53}", settings.broker_queue, re.ASCII):
        yield (
            "BROKER_QUEUE must be 1 to 53 letters, digits, '.', '_' or '-' with an sqs:// BROKER_URL "
            "(a queue's name has at most 80, our endings up to 27)"
        )


def _oddities(settings: Settings) -> Iterator[str]:
    """Find what is allowed but probably a mistake."""
    s = settings
    host = urlsplit(s.registry_url).hostname or ""
    if host == _PRODUCTION and s.registry_api_version == "v2":
        yield "REGISTRY_API_VERSION=v2 is no longer served by the Registry's production: use v3.3"
    if host.endswith(".covoiturage.beta.gouv.fr") and s.registry_rate_per_minute > REGISTRY_LIMIT_PER_MINUTE:
        yield f"REGISTRY_RATE_PER_MINUTE exceeds what the Registry allows ({REGISTRY_LIMIT_PER_MINUTE})"
    if _is_plain_http(s):
        yield "REGISTRY_URL is plain http: token and journeys travel in the clear"
    if s.events_exchange and urlsplit(s.broker_urls[0]).scheme not in AMQP_SCHEMES:
        yield "EVENTS_EXCHANGE has no effect: outcome events need AMQP"
    if not s.broker_declare and urlsplit(s.broker_urls[0]).scheme not in AMQP_SCHEMES:
        yield "BROKER_DECLARE=false has no effect: only AMQP brokers can verify queues without creating them"
    if s.broker_exchange and not s.broker_declare:
        yield "BROKER_EXCHANGE has no effect while BROKER_DECLARE is false: nothing is bound"
    if s.drain_timeout_seconds < s.registry_timeout_seconds:
        yield (
            "DRAIN_TIMEOUT_SECONDS is shorter than REGISTRY_TIMEOUT_SECONDS: "
            "requests in flight may be cut at shutdown and sent again"
        )


def _unused_tls(settings: Settings) -> Iterator[str]:
    if _is_plain_amqp(settings):
        yield "BROKER_URL is amqp:// to another machine: password and journeys travel in the clear"
    if not any(urlsplit(url).scheme == "amqps" for url in settings.broker_urls):
        for name in ("BROKER_CA_FILE", "BROKER_CLIENT_CERT_FILE"):
            if getattr(settings, name.lower()):
                yield f"{name} has no effect: no address in BROKER_URL is amqps://"


def _unused_proxy(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    """Name the proxies of the environment that other programs would use for the Registry."""
    if settings.registry_proxy_url is None and not is_loopback(settings.registry_url):
        for name in _PROXIES[urlsplit(settings.registry_url).scheme]:
            if environ.get(name) or environ.get(name.lower()):
                yield f"{name} is set and not used: the proxy of the Registry is REGISTRY_PROXY_URL"


def near_misses(environ: Mapping[str, str], reads: Collection[str]) -> Iterator[str]:
    """Find variables that look like a misspelt setting of those that are read.

    They are never refused: Kubernetes injects a variable for every Service it knows, and an
    operator's image may hold variables of its own.
    """
    for name in sorted(environ):
        if name in _NAMES or name in _NOT_OURS or _SERVICE_LINK.search(name):
            continue
        close = get_close_matches(name.upper(), _NAMES, n=1, cutoff=0.85)
        if close and close[0] in reads:
            yield f"{name} is not a setting: did you mean {close[0]}?"
