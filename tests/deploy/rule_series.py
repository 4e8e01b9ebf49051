"""What Prometheus sees of a healthy release, and the words to say what is different in an unhealthy one.

Selectors map to promtool's notation of values; time begins at 0 and moves by a minute. A case says what
Prometheus sees, when it is asked, and whether the alert fires.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

MINUTES = 200
_OURS = 'job="journey-consumer",namespace="mobility",release="proofs",instance="a"'


def ours(metric: str, labels: str = "") -> str:
    """A series of the service."""
    return f"journey_consumer_{metric}{{{_OURS}{',' if labels else ''}{labels}}}"


def another_pod(metric: str, labels: str = "") -> str:
    """A series of a second pod."""
    return ours(metric, labels).replace('instance="a"', 'instance="b"')


def queue(metric: str, name: str = "journeys.completed", prefix: str = "rabbitmq_detailed_queue_") -> str:
    """A series of the broker."""
    return f'{prefix}{metric}{{job="rabbitmq",vhost="/",queue="{name}"}}'


def always(value: float, minutes: int = MINUTES) -> str:
    """A gauge that stays."""
    return f"{value}+0x{minutes}"


def rising(each_minute: float, minutes: int = MINUTES) -> str:
    """A counter that rises steadily."""
    return f"0+{each_minute}x{minutes}"


def registered(each_minute: float, late: float = 0) -> dict[str, str]:
    """So many registrations a minute, ``late`` of them after more than 24 hours."""
    return {
        ours("journeys_total", 'outcome="registered"'): rising(each_minute),
        ours("journey_age_at_registration_seconds_count"): rising(each_minute),
        ours("journey_age_at_registration_seconds_bucket", 'le="86400.0"'): rising(each_minute - late),
    }


def outcome(name: str, values: str) -> dict[str, str]:
    """Journeys with that outcome."""
    return {ours("journeys_total", f'outcome="{name}"'): values}


def paused(cause: str) -> dict[str, str]:
    """Consumption is paused all the time."""
    return {ours("paused", f'cause="{cause}"'): always(1)}


_REASONS = ("invalid", "rejected", "unauthorized", "forbidden", "expired", "exhausted")
_NEAREST = "dead_letters_oldest_deadline_timestamp_seconds"
_CAUSES = ("unauthorized", "forbidden", "misconfigured", "unavailable")
HEALTHY: dict[str, str] = (
    {
        **registered(100),
        ours("build_info", 'version="1"'): always(1),
        ours("token_accepted"): always(1),
        ours("token_loaded_timestamp_seconds"): always(1),
        ours("token_expiry_timestamp_seconds"): always(0),
        ours("paused", 'cause="publisher"'): always(0),
        ours("oldest_pending_start_timestamp_seconds"): always(0),
        ours("deadline_missed_total"): always(0),
        ours("deliveries_total"): rising(100),
        ours("registry_requests_total", 'code="429"'): always(0),
        ours("broker_connected", 'connection="consume"'): always(1),
        ours("broker_connected", 'connection="publish"'): always(1),
        ours(_NEAREST, 'reason="delivery-limit"'): always(0),
        queue("messages"): "20 0 30 10 0 40 0 10" + " 5" * MINUTES,
        queue("messages_ready"): "10 0 20 0 0 30 0 0" + " 0" * MINUTES,
        queue("consumers"): always(2),
    }
    | {
        key: value
        for reason in _REASONS
        for key, value in {
            **outcome(reason, always(0)),
            ours("dead_lettered_total", f'reason="{reason}"'): always(0),
            ours(_NEAREST, f'reason="{reason}"'): always(0),
            ours("dead_letters_refused_total", f'reason="{reason}",cause="nacked"'): always(0),
            queue("messages", f"journeys.completed.dead-letter.{reason}"): always(0),
        }.items()
    }
    | {
        key: value
        for cause in _CAUSES
        for key, value in {
            ours("paused", f'cause="{cause}"'): always(0),
            ours("breaker_state", f'cause="{cause}"'): always(0),
        }.items()
    }
)
Series = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Case:
    """``unlike`` replaces or adds series; ``absent`` takes away those whose selector contains it."""

    alert: str
    what: str
    at: int  # minutes
    fires: bool
    unlike: Series = field(default_factory=dict)
    which: str = ""  # further matchers of the alert
    absent: str | None = None

    @property
    def series(self) -> dict[str, str]:
        """Everything that Prometheus sees."""
        kept = {key: value for key, value in HEALTHY.items() if self.absent is None or self.absent not in key}
        return kept | dict(self.unlike)


def lasting(
    alert: str, minutes: int, unlike: Series, *, which: str = "", absent: str | None = None
) -> list[Case]:
    """The alert fires once this has lasted so many minutes, and not before."""
    return [
        Case(
            alert,
            f"lasts {at} minutes",
            at,
            fires=at == minutes,
            unlike=unlike,
            which=which,
            absent=absent,
        )
        for at in (minutes - 1, minutes)
    ]
