from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.config import ALL, BROKER, REGISTRY, TOPOLOGY, Settings, described, load, settings_reference
from consumer.config.settings import split_urls, without_secrets
from consumer.errors import ConfigurationError

TOKEN = {"REGISTRY_TOKEN": "invented.token-1"}


def problems(**environ: str) -> list[str]:
    """Return the sentences with which these variables are refused."""
    with pytest.raises(ConfigurationError) as caught:
        load(environ)
    return caught.value.problems


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """Lay a secrets directory out as Kubernetes does: names are links into a swapped directory."""
    (tmp_path / "..2026").mkdir()
    (tmp_path / "..data").symlink_to("..2026")
    return tmp_path


def put(directory: Path, name: str, content: str) -> Path:
    """Add a secret, as a link into the current version of the directory."""
    (directory / "..data" / name).write_text(content)
    (directory / name).symlink_to(Path("..data") / name)
    return directory / name


def test_the_defaults_are_the_published_ones() -> None:
    """A token is all that must be set; every default is the one that the documentation names."""
    settings = load(TOKEN)
    assert settings.registry_url == "https://api.demo.covoiturage.beta.gouv.fr"
    assert settings.broker_urls == ("amqp://guest:guest@localhost:5672//",)
    assert settings.broker_queue == "journeys.completed"
    assert settings.registry_api_version == "v2"
    assert settings.registry_concurrency == 64
    assert settings.registry_rate_per_minute == 20_000
    assert settings.auth_pause_after == 20
    assert settings.drain_timeout_seconds == 25
    assert settings.http_port == 8000
    assert settings.retry_delays_seconds == (60, 300, 900, 3600)
    assert settings.broker_prefetch == 128
    assert settings.warnings == ()


def test_settings_are_read_from_the_variables_of_their_names(tmp_path: Path) -> None:
    """Numbers, lists, choices, files and addresses reach the field of the variable's name."""
    file = tmp_path / "file"
    file.write_text("x")
    changed = {
        "REGISTRY_CONCURRENCY": "7",
        "BROKER_PREFETCH": "99",
        "BROKER_DECLARE": "false",
        "RETRY_DELAYS_SECONDS": " 1, 2 ,86400",
        "DRAIN_TIMEOUT_SECONDS": "12.5",
        "BROKER_CA_FILE": str(file),
        "BROKER_EXCHANGE": "trips",
        "BROKER_ROUTING_KEY": "trip.*",
        "LOG_LEVEL": "warning",
        "LOG_FORMAT": "TEXT",
        "REGISTRY_API_VERSION": "v3.2",
        "HTTP_HOST": "::",
        "REGISTRY_PROXY_URL": "http://user:pass@proxy.example:3128",
    }
    settings = load(TOKEN | changed)
    assert settings.registry_concurrency == 7
    assert settings.broker_prefetch == 99
    assert settings.broker_declare is False
    assert settings.retry_delays_seconds == (1, 2, 86_400)
    assert settings.drain_timeout_seconds == 12.5
    assert settings.broker_ca_file == file
    assert (settings.broker_exchange, settings.broker_routing_key) == ("trips", "trip.*")
    assert (settings.log_level, settings.log_format) == ("WARNING", "text")
    assert settings.registry_api_version == "v3.2"
    assert settings.http_host == "::"


@pytest.mark.parametrize("name", [name.upper() for name in Settings.model_fields])
def test_an_empty_value_counts_as_not_set(name: str) -> None:
    """Charts and compose files render unset values as empty strings: the default stays."""
    environ = (
        TOKEN | {name: "  "} if name != "REGISTRY_TOKEN" else {name: "", "REGISTRY_TOKEN_FILE": __file__}
    )
    reference = TOKEN if name != "REGISTRY_TOKEN" else {"REGISTRY_TOKEN_FILE": __file__}
    assert load(environ) == load(reference)


def test_nothing_is_read_from_the_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the given mapping counts, so that tests and embedders are not surprised."""
    monkeypatch.setenv("HTTP_PORT", "1234")
    monkeypatch.setenv("REGISTRY_TOKEN", "other")
    assert load(TOKEN).http_port == 8000
    assert Settings().http_port == 8000
    assert "no way to authenticate" in problems()[0]


def test_settings_cannot_be_changed() -> None:
    """A setting is the same for the whole life of the process."""
    with pytest.raises(ValueError, match="frozen"):
        load(TOKEN).http_port = 1


# --- Mistakes ----------------------------------------------------------------------------


def test_all_mistakes_are_reported_together_in_one_sentence_each() -> None:
    """One line per mistake; a wrong setting does not hide a contradiction between others."""
    reported = problems(
        REGISTRY_TOKEN="t",
        HTTP_PORT="http",
        REGISTRY_CONCURRENCY="0",
        LOG_LEVEL="LOUD",
        BROKER_DECLARE="maybe",
        BROKER_ROUTING_KEY="trip",
    )
    assert reported == [
        "REGISTRY_CONCURRENCY must be a whole number from 1 to 2000",
        "BROKER_DECLARE must be true or false",
        "HTTP_PORT must be a whole number from 0 to 65535",
        "LOG_LEVEL must be one of DEBUG, INFO, WARNING, ERROR",
        "BROKER_ROUTING_KEY needs BROKER_EXCHANGE",
    ]


@pytest.mark.parametrize(
    "name", [n.upper() for n, f in Settings.model_fields.items() if f.annotation in (int, float)]
)
@pytest.mark.parametrize("value", ["-1", "1e999", "nan", "inf", "twelve", "0x10", "99999999999"])
def test_numbers_out_of_bounds_are_refused(name: str, value: str) -> None:
    """Every number has bounds; NaN and infinity are no durations."""
    reported = problems(**TOKEN, **{name: value})
    assert [sentence for sentence in reported if sentence.startswith(f"{name} must be a ")] == reported


SECRET = "s3cr3t-Pa55word"


@pytest.mark.parametrize(
    "name",
    [
        name.upper()
        for name in Settings.model_fields
        if name not in ("broker_exchange", "broker_queue", "events_exchange")
    ],
)
@pytest.mark.parametrize(
    "value",
    [
        f"amqp://user:{SECRET}@host:port/",
        f"amqp://user:12/{SECRET}@host/",
        f"Bearer {SECRET}",
        f"https://user:{SECRET}@host",
        f"\x00{SECRET}",
        f"{SECRET}\ud800",
    ],
)
def test_no_sentence_and_no_repr_shows_a_secret_even_in_the_wrong_variable(name: str, value: str) -> None:
    """A secret pasted into any variable is never echoed, whether it is refused or not."""
    environ = (TOKEN if "TOKEN" not in name and "_KEY" not in name else {}) | {name: value}
    refused, reported = [], ""
    try:
        settings = load(environ)
        reported = repr(settings) + str(settings.summary())
    except ConfigurationError as error:
        refused = error.problems
    assert bool(refused) != bool(reported)
    if name not in ("HTTP_HOST", "BROKER_ROUTING_KEY"):  # plain text that must be shown to be of use
        assert SECRET not in "".join(refused) + reported


def test_the_settings_themselves_do_not_quote_a_wrong_value() -> None:
    """Built directly, without `load`, the library's own message quotes no input either."""
    with pytest.raises(ValueError, match="http_port") as caught:
        Settings(http_port=SECRET)
    assert SECRET not in str(caught.value)


# --- Authentication ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({}, "no way to authenticate is set"),
        (
            {"REGISTRY_TOKEN": "t", "REGISTRY_TOKEN_FILE": __file__},
            "REGISTRY_TOKEN and REGISTRY_TOKEN_FILE are both",
        ),
        ({"REGISTRY_TOKEN": "t", "REGISTRY_ACCESS_KEY": "a"}, "several ways to authenticate"),
        ({"REGISTRY_ACCESS_KEY": "a", "REGISTRY_API_VERSION": "v3.3"}, "are only of use together"),
        ({"REGISTRY_SECRET_KEY_FILE": __file__, "REGISTRY_API_VERSION": "v3.3"}, "are only of use together"),
        ({"REGISTRY_ACCESS_KEY": "a", "REGISTRY_SECRET_KEY": "b"}, "need REGISTRY_API_VERSION=v3.3"),
        ({"REGISTRY_TOKEN": "Bearer abc"}, "REGISTRY_TOKEN must hold the token or key alone"),
        ({"REGISTRY_TOKEN": "a\nb"}, "REGISTRY_TOKEN must hold the token or key alone"),
        ({"REGISTRY_TOKEN": "é"}, "REGISTRY_TOKEN must hold the token or key alone"),
        ({"REGISTRY_TOKEN_FILE": "/does/not/exist"}, "REGISTRY_TOKEN_FILE names a file that does not exist"),
        ({"REGISTRY_TOKEN_FILE": "/"}, "REGISTRY_TOKEN_FILE names a file that does not exist"),
    ],
)
def test_there_is_exactly_one_way_to_authenticate(environ: dict[str, str], sentence: str) -> None:
    """None, several or half a way is one clear sentence."""
    reported = problems(**environ)
    assert len(reported) == 1
    assert sentence in reported[0]


@pytest.mark.parametrize(
    "environ",
    [
        {"REGISTRY_TOKEN_FILE": __file__},
        {"REGISTRY_ACCESS_KEY": "a", "REGISTRY_SECRET_KEY_FILE": __file__, "REGISTRY_API_VERSION": "v3.3"},
        {"REGISTRY_ACCESS_KEY_FILE": __file__, "REGISTRY_SECRET_KEY": "b", "REGISTRY_API_VERSION": "v3.3"},
    ],
)
def test_each_way_to_authenticate_is_accepted_alone(environ: dict[str, str]) -> None:
    """A file, or keys in variables or files, replace the token."""
    assert load(environ).registry_token is None


def test_a_token_loses_the_newline_of_its_file() -> None:
    """`echo token > file` ends with a newline, which no header may hold."""
    token = load({"REGISTRY_TOKEN": " abc.def \n"}).registry_token
    assert token is not None
    assert token.get_secret_value() == "abc.def"


@pytest.mark.parametrize("reads", [BROKER, TOPOLOGY])
def test_commands_that_never_speak_to_the_registry_need_no_token(reads: frozenset[str]) -> None:
    """`publish` and `dead-letters` work with the broker's settings alone, whatever else is wrong."""
    assert load({}, reads).registry_token is None
    settings = load({"REGISTRY_TOKEN": "t", "REGISTRY_ACCESS_KEY": "a", "REGISTRY_URL": "nonsense"}, reads)
    assert settings.registry_token is None


@given(st.sets(st.sampled_from(sorted(ALL))), st.text(st.characters(codec="ascii"), min_size=1))
def test_a_setting_that_is_not_read_changes_nothing(not_read: set[str], value: str) -> None:
    """Wrong by itself, in conflict with others, or odd: whoever does not read it never learns of it."""
    environ = TOKEN | dict.fromkeys(not_read - TOKEN.keys(), value)
    settings = load(environ, ALL - not_read | TOKEN.keys())
    assert settings == load(TOKEN)
    assert settings.warnings == ()


@pytest.mark.parametrize(
    ("environ", "reads"),
    [
        ({"BROKER_PREFETCH": "10", "REGISTRY_CONCURRENCY": "5"}, TOPOLOGY),
        ({"BROKER_PREFETCH": "10"}, REGISTRY | BROKER),
        ({"HOLD_LIMIT_SECONDS": "1", "LOG_LEVEL": "loud"}, TOPOLOGY),
        ({"BROKER_ROUTING_KEY": "k"}, BROKER),
        ({"BROKER_EXCHANGE": "x", "BROKER_DECLARE": "false"}, TOPOLOGY),
        ({"HTTP_PROT": "1"}, TOPOLOGY),
    ],
)
def test_conflicts_with_settings_of_others_are_theirs(environ: dict[str, str], reads: frozenset[str]) -> None:
    assert load(TOKEN | environ, reads).warnings == ()


def test_a_secret_of_others_in_the_directory_is_not_read(secrets: Path) -> None:
    put(secrets, "HTTP_PORT", "nonsense")
    put(secrets, "REGISTRY_TOKEN", "t")
    put(secrets, "BROKER_QUEUE", "mine")
    settings = load({"SECRETS_DIR": str(secrets)}, BROKER)
    assert (settings.broker_queue, settings.registry_token_file) == ("mine", None)


def test_a_misspelt_setting_is_named_beside_the_one_that_is_missing() -> None:
    """Of a refused configuration the misspelt name is often the cause."""
    missing, misspelt = problems(REGISTRY_TOKN="t")
    assert missing.startswith("no way to authenticate is set")
    assert misspelt == "REGISTRY_TOKN is not a setting: did you mean REGISTRY_TOKEN?"


# --- The secrets directory ---------------------------------------------------------------


def test_settings_are_read_from_files_and_the_environment_wins(secrets: Path) -> None:
    """A file is read where no variable is set; a variable that hides a file is a warning."""
    put(secrets, "BROKER_URL", "amqps://u:p@files//\n")
    put(secrets, "HTTP_PORT", "9000\n")
    put(secrets, "LOG_LEVEL", "\n")
    settings = load(TOKEN | {"SECRETS_DIR": str(secrets), "HTTP_PORT": "9001"})
    assert settings.broker_urls == ("amqps://u:p@files//",)
    assert settings.http_port == 9001
    assert settings.log_level == "INFO"
    assert len(settings.warnings) == 1
    assert settings.warnings[0].startswith("HTTP_PORT is set both")


@pytest.mark.parametrize("name", ["REGISTRY_TOKEN", "REGISTRY_ACCESS_KEY", "REGISTRY_SECRET_KEY"])
def test_a_registry_secret_in_the_directory_stays_a_file_so_that_its_rotation_is_noticed(
    secrets: Path, name: str
) -> None:
    """Copying the value at start would keep a rotated token out until the next restart."""
    path = put(secrets, name, "abc\n")
    other = {"REGISTRY_API_VERSION": "v3.3"}
    other |= {n: "x" for n in ("REGISTRY_ACCESS_KEY", "REGISTRY_SECRET_KEY") if "KEY" in name and n != name}
    settings = load(other | {"SECRETS_DIR": str(secrets)})
    assert getattr(settings, f"{name.lower()}_file") == path
    assert getattr(settings, name.lower()) is None


def test_a_token_file_setting_beside_a_token_in_the_directory_is_ambiguous(secrets: Path) -> None:
    """Two files may differ, so the setting is refused."""
    put(secrets, "REGISTRY_TOKEN", "abc")
    reported = problems(SECRETS_DIR=str(secrets), REGISTRY_TOKEN_FILE=__file__)
    assert reported == [
        "REGISTRY_TOKEN_FILE is set, and the secrets directory holds REGISTRY_TOKEN: keep one of them"
    ]


def test_an_unusable_secrets_directory_is_refused(tmp_path: Path) -> None:
    """A directory that was named must exist, and its files must be text."""
    assert "SECRETS_DIR must be an existing directory" in problems(**TOKEN, SECRETS_DIR=str(tmp_path / "no"))
    (tmp_path / "BROKER_URL").write_bytes(b"\xff\xfe\x00")
    assert problems(**TOKEN, SECRETS_DIR=str(tmp_path)) == [
        "BROKER_URL: its file in the secrets directory cannot be read as text"
    ]


# --- Addresses ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["http://localhost:1", "http://127.1.2.3:8000/base", "http://[::1]:80", "http://api.localhost"]
)
def test_plain_http_to_this_machine_is_allowed(url: str) -> None:
    """The sandbox and tests live on loopback."""
    assert load(TOKEN | {"REGISTRY_URL": url + "/"}).registry_url == url


@pytest.mark.parametrize("url", ["http://registry.example", "http://10.0.0.1", "http://localhost.example"])
def test_plain_http_to_another_machine_is_refused_unless_allowed(url: str) -> None:
    """Token and journeys must not travel in the clear by accident."""
    assert "REGISTRY_URL must be https" in problems(**TOKEN, REGISTRY_URL=url)[0]
    settings = load(TOKEN | {"REGISTRY_URL": url, "REGISTRY_ALLOW_HTTP": "true"})
    assert "in the clear" in settings.warnings[0]


@pytest.mark.parametrize(
    "url",
    [
        "registry.example",
        "ftp://registry.example",
        "https://",
        "https://user:pass@registry.example",
        "https://registry.example?x=1",
        "https://registry.example#x",
        "https://registry.example/v2",
        "https://registry.example/v3.3/journeys",
        "https://registry.example/a b",
        "https://registry.example:99999",
        "https://registry.example\r\nX: y",
        "https://[::1",
    ],
)
def test_an_address_that_is_not_the_registrys_root_is_refused(url: str) -> None:
    """Credentials, routes, parameters and broken addresses are refused at start."""
    assert problems(**TOKEN, REGISTRY_URL=url)[0].startswith("REGISTRY_URL must be an address like https://")


def test_fail_over_addresses_are_split_and_shown_without_secrets() -> None:
    """Several brokers keep their order; logs see host, port and virtual host only."""
    settings = load(TOKEN | {"BROKER_URL": "amqps://a:p%2F1@one:5671/v ;;amqp://two; amqp://"})
    assert settings.broker_urls == ("amqps://a:p%2F1@one:5671/v", "amqp://two", "amqp://")
    assert settings.broker_addresses == ("amqps://one:5671/v", "amqp://two", "amqp://")


@pytest.mark.parametrize("urls", ["sqs://a;sqs://b", "amqp://a;memory://"])
def test_other_transports_do_not_fail_over(urls: str) -> None:
    """A second address that would never be tried is refused, not ignored."""
    (problem,) = problems(**TOKEN, BROKER_URL=urls)
    assert problem.startswith("BROKER_URL must be one address")


@pytest.mark.parametrize(
    "scheme",
    [
        *("redis", "rediss", "kafka", "confluentkafka", "nats", "http", "https", "filesystem", "sqla+sqlite"),
        *("gcpubsub", "azureservicebus", "pyamqp", "carrier-pigeon"),
    ],
)
def test_other_brokers_are_refused_with_a_way_out(scheme: str) -> None:
    """One sentence names what is supported and what to do, and quotes nothing of the address."""
    (problem,) = problems(**TOKEN, BROKER_URL=f"{scheme}://user:hidden@host:1/path")
    assert problem.startswith("BROKER_URL must be amqp://, amqps:// or sqs://")
    assert "bridge their messages into RabbitMQ or SQS" in problem
    assert "hidden" not in problem
    assert scheme not in problem or scheme in "amqp"


@pytest.mark.parametrize(
    "query",
    [
        "connection_attempts=3",
        "cacertfile=/tmp/secret.pem",
        "heartbeat=5",
        "ssl=true",
        "password=hidden",
        "#x",
    ],
)
@pytest.mark.parametrize("url", ["amqp://h/v", "amqps://h", "memory://"])
def test_parameters_of_a_broker_address_are_refused(url: str, query: str) -> None:
    """Each has a setting of its own; kombu ended with a traceback."""
    (problem,) = problems(**TOKEN, BROKER_URL=f"{url}?{query}")
    assert problem.startswith("BROKER_URL must have no '?' parameters")
    assert query not in problem


@pytest.mark.parametrize(
    "url",
    [
        "sqs://",
        "sqs://?region=eu-west-3",
        "sqs://AKIA:s%2Fecret@",
        "sqs://key:secret@localhost:4566?region=us-east-1&is_secure=false",
        "sqs://vpce-1.sqs.eu-west-3.vpce.amazonaws.com?is_secure=true",
    ],
)
def test_an_address_of_sqs(url: str) -> None:
    """AWS itself, or an endpoint; region and TLS are its only parameters."""
    settings = load(TOKEN | {"BROKER_URL": url})
    assert settings.broker_urls == (url,)
    assert "ecret" not in settings.broker_addresses[0]


@pytest.mark.parametrize(
    "rest",
    [
        *("?region=", "?region=eu/west", "?regoin=eu-west-3", "?is_secure=yes", "?is_secure=false"),
        *("host?region=a&region=b", "host/123/q", "host#x"),
    ],
)
def test_a_mistaken_address_of_sqs_is_refused(rest: str) -> None:
    """A misspelt parameter would otherwise leave a default in force, or end with a traceback."""
    (problem,) = problems(**TOKEN, BROKER_URL=f"sqs://{rest}")
    assert problem.startswith("BROKER_URL must ")


@pytest.mark.parametrize("queue", ["q" * 54, "journées", "a b", "a/b"])
def test_a_queue_name_that_sqs_does_not_take_is_refused(queue: str) -> None:
    """The names of our own queues must fit as well."""
    (problem,) = problems(**TOKEN, BROKER_URL="sqs://", BROKER_QUEUE=queue)
    assert problem.startswith("BROKER_QUEUE must be 1 to 53")
    assert load(TOKEN | {"BROKER_QUEUE": queue}).broker_queue == queue


def test_sqs_without_boto3_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 is not part of the plain installation."""
    monkeypatch.setattr("consumer.config.loading.find_spec", lambda _name: None)
    (problem,) = problems(**TOKEN, BROKER_URL="sqs://")
    assert "pip install journey-consumer[sqs]" in problem


@given(
    user=st.text(st.characters(codec="ascii", min_codepoint=33, max_codepoint=126), min_size=1, max_size=8),
    password=st.text(st.characters(codec="ascii", min_codepoint=33, max_codepoint=126), max_size=12),
)
def test_whatever_the_password_holds_is_not_shown(user: str, password: str) -> None:
    """Unencoded separators in a password either are refused or do not leak into what is shown."""
    try:
        urls = split_urls(f"amqp://{user}:PASS{password}WORD@h:1/v")
        reported = "".join(map(without_secrets, urls))
    except ValueError as error:
        reported = str(error)
    assert "PASS" not in reported
    assert "WORD" not in reported


@pytest.mark.parametrize("url", ["socks5://p:1", "proxy:3128", "http://", "http://p:x"])
def test_a_proxy_is_an_http_address(url: str) -> None:
    """Anything else would fail on the first request instead of at start."""
    assert problems(**TOKEN, REGISTRY_PROXY_URL=url)[0].startswith(
        "REGISTRY_PROXY_URL must be an address like"
    )


# --- Values that must go together --------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"BROKER_PREFETCH": "10", "REGISTRY_CONCURRENCY": "11"}, "BROKER_PREFETCH must be at least"),
        ({"RETRY_BACKOFF_BASE_SECONDS": "11"}, "RETRY_BACKOFF_BASE_SECONDS must not exceed"),
        ({"BREAKER_PROBE_SECONDS": "100"}, "BREAKER_PROBE_SECONDS must not exceed"),
        ({"HOLD_LIMIT_SECONDS": "59"}, "HOLD_LIMIT_SECONDS must be at least"),
        ({"HOLD_LIMIT_SECONDS": "1701"}, "HOLD_LIMIT_SECONDS must be a number from 1 to 1700"),
        ({"RETRY_DELAYS_SECONDS": "60,60"}, "RETRY_DELAYS_SECONDS must be 1 to 10 whole numbers"),
        ({"RETRY_DELAYS_SECONDS": "0,60"}, "RETRY_DELAYS_SECONDS must be 1 to 10 whole numbers"),
        ({"RETRY_DELAYS_SECONDS": "60,86401"}, "RETRY_DELAYS_SECONDS must be 1 to 10 whole numbers"),
        ({"RETRY_DELAYS_SECONDS": ","}, "RETRY_DELAYS_SECONDS must be 1 to 10 whole numbers"),
        ({"RETRY_DELAYS_SECONDS": ",".join(map(str, range(1, 12)))}, "RETRY_DELAYS_SECONDS must be 1 to 10"),
        ({"BROKER_QUEUE": "amq.mine"}, "BROKER_QUEUE must not start with 'amq.'"),
        ({"BROKER_QUEUE": "q" * 221}, "BROKER_QUEUE is too long"),
        ({"BROKER_QUEUE": "é" * 111}, "BROKER_QUEUE is too long"),
        ({"BROKER_QUEUE": "a\tb"}, "BROKER_QUEUE is too long, empty or holds control characters"),
        ({"BROKER_CA_FILE": "/nowhere"}, "BROKER_CA_FILE names a file"),
        ({"BROKER_EXCHANGE": "x", "EVENTS_EXCHANGE": "x"}, "EVENTS_EXCHANGE leads to our own queues"),
        ({"BROKER_QUEUE": "q", "EVENTS_EXCHANGE": "q.dead-letter"}, "EVENTS_EXCHANGE leads to our own"),
    ],
)
def test_values_that_contradict_each_other_are_refused(environ: dict[str, str], sentence: str) -> None:
    """What would fail later, at a worse moment, fails at start."""
    reported = problems(**TOKEN, **environ)
    assert len(reported) == 1
    assert reported[0].startswith(sentence)


def test_the_prefetch_follows_the_concurrency() -> None:
    """Raising the concurrency alone is no mistake."""
    assert load(TOKEN | {"REGISTRY_CONCURRENCY": "200"}).broker_prefetch == 400


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        (
            {"REGISTRY_URL": "https://api.covoiturage.beta.gouv.fr"},
            "REGISTRY_API_VERSION=v2 is no longer served",
        ),
        ({"REGISTRY_RATE_PER_MINUTE": "20001"}, "REGISTRY_RATE_PER_MINUTE exceeds"),
        ({"BROKER_EXCHANGE": "x", "BROKER_DECLARE": "false"}, "BROKER_EXCHANGE has no effect"),
        ({"BROKER_CA_FILE": __file__}, "BROKER_CA_FILE has no effect"),
        ({"EVENTS_EXCHANGE": "x", "BROKER_URL": "sqs://"}, "EVENTS_EXCHANGE has no effect"),
        ({"DRAIN_TIMEOUT_SECONDS": "5"}, "DRAIN_TIMEOUT_SECONDS is shorter"),
        ({"BROKER_QUEU": "x"}, "BROKER_QUEU is not a setting: did you mean BROKER_QUEUE?"),
        ({"registry_url": "x"}, "registry_url is not a setting: did you mean REGISTRY_URL?"),
    ],
)
def test_what_is_probably_a_mistake_is_a_warning(environ: dict[str, str], sentence: str) -> None:
    """A misspelt variable would otherwise silently leave the default in force."""
    (warning,) = load(TOKEN | environ).warnings
    assert warning.startswith(sentence)


def test_what_others_put_into_the_environment_is_not_taken_for_a_mistake() -> None:
    """Kubernetes injects variables for every Service; a proxy setting is for other programs."""
    environ = {
        "BROKER_PORT": "tcp://10.0.0.1:5672",
        "BROKER_PORT_5672_TCP": "x",
        "BROKER_PORT_5672_TCP_ADDR": "x",
        "REGISTRY_SERVICE_HOST": "x",
        "HTTP_PROXY": "x",
        "NO_PROXY": "x",
        "PATH": "x",
    }
    assert load(TOKEN | environ).warnings == ()


# --- Secrecy on the way ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("amqp://u:p@broker.example//", True),
        ("amqps://broker.example;amqp://broker.example", True),
        ("amqps://broker.example", False),
        ("amqp://u:p@localhost//", False),
        ("amqp://127.0.0.8;amqp://[::1]", False),
        ("memory://", False),
    ],
)
def test_a_broker_without_tls_is_a_warning_or_refused(url: str, plain: bool) -> None:  # noqa: FBT001
    """Password and personal data cross the network; what stays on this machine is nobody's business."""
    warnings = load(TOKEN | {"BROKER_URL": url}).warnings
    assert [text for text in warnings if "in the clear" in text] == (
        ["BROKER_URL is amqp:// to another machine: password and journeys travel in the clear"] * plain
    )
    environ = TOKEN | {"BROKER_URL": url, "BROKER_REQUIRE_TLS": "true"}
    if plain:
        assert problems(**environ) == [
            "BROKER_URL must be amqps: BROKER_REQUIRE_TLS refuses amqp:// to another machine"
        ]
    else:
        load(environ)


@pytest.mark.parametrize("side", ["REGISTRY", "BROKER"])
def test_a_client_certificate_needs_its_key(tmp_path: Path, side: str) -> None:
    """And a key its certificate."""
    file = tmp_path / "pem"
    file.touch()
    for part in ("CERT", "KEY"):
        assert problems(**TOKEN, **{f"{side}_CLIENT_{part}_FILE": str(file)}) == [
            f"{side}_CLIENT_CERT_FILE and {side}_CLIENT_KEY_FILE are only of use together: set both"
        ]


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_a_proxy_of_the_environment_that_is_not_used_is_told(name: str) -> None:
    """Other programs on this machine would use it."""
    environ = TOKEN | {name: f"http://user:{SECRET}@proxy:3128"}
    (warning,) = load(environ).warnings
    assert warning == f"{name.upper()} is set and not used: the proxy of the Registry is REGISTRY_PROXY_URL"
    assert load(environ | {"REGISTRY_PROXY_URL": "http://proxy:3128"}).warnings == ()
    assert load(environ | {"REGISTRY_URL": "http://127.0.0.1:1"}).warnings == ()


# --- In words ----------------------------------------------------------------------------


def test_the_summary_names_what_is_set_and_no_secret() -> None:
    """The line at start helps to see a wrong setting, and can be sent to anyone."""
    environ = {"BROKER_URL": f"amqp://u:{SECRET}@h:1/v;amqp://k", "REGISTRY_TOKEN": SECRET}
    summary = load(environ | {"REGISTRY_PROXY_URL": f"http://u:{SECRET}@p:1"}).summary()
    assert summary["registry_token"] == "set"
    assert summary["registry_proxy_url"] == "set"
    assert summary["broker_url"] == "amqp://h:1/v;amqp://k"
    assert summary["retry_delays_seconds"] == "60,300,900,3600"
    assert "registry_ca_file" not in summary
    assert SECRET not in str(summary)


def test_the_reference_names_every_setting_with_its_default() -> None:
    """`run --help` is complete, and says of every setting what it may be and what it is for."""
    text = settings_reference()
    for setting in described():
        assert f"  {setting.name}" in text
        assert setting.allowed
        assert setting.meaning.endswith((".", ")"))
    assert {s.name for s in described()} == {n.upper() for n in Settings.model_fields} | {"SECRETS_DIR"}
    assert max(map(len, text.splitlines())) <= 100


def test_every_default_can_be_set_as_it_is_written() -> None:
    """The defaults in the reference are in the syntax of the environment, and valid."""
    environ = {s.name: s.default for s in described() if s.name not in ("SECRETS_DIR", "BROKER_PREFETCH")}
    assert load(TOKEN | {k: v for k, v in environ.items() if v}) == load(TOKEN)
