"""What the alerts must do: for each, how the series of a healthy release differ when it fires.

A case says what Prometheus sees, when it is asked, and whether the alert fires. Time begins at 0 and moves
by a minute. The thresholds are those that the chart has when an operator sets none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.deploy.rule_series import (
    HEALTHY,
    MINUTES,
    always,
    another_pod,
    ours,
    outcome,
    paused,
    queue,
    registered,
    rising,
)

Series = Mapping[str, str]  # selector -> promtool's notation of values


@dataclass(frozen=True, slots=True)
class Case:
    """``unlike`` replaces or adds series; ``gone`` takes away those whose selector contains it."""

    alert: str
    what: str
    at: int  # minutes
    fires: bool
    unlike: Series = field(default_factory=dict)
    which: str = ""  # further matchers of the alert
    gone: str | None = None

    @property
    def series(self) -> dict[str, str]:
        """Everything that Prometheus sees."""
        kept = {key: value for key, value in HEALTHY.items() if self.gone is None or self.gone not in key}
        return kept | dict(self.unlike)


def _from(
    alert: str, minutes: int, unlike: Series, *, which: str = "", gone: str | None = None
) -> list[Case]:
    """The alert fires once this has lasted so many minutes, and not before."""
    return [
        Case(
            alert,
            f"lasts {minutes - 1} minutes",
            minutes - 1,
            fires=False,
            unlike=unlike,
            which=which,
            gone=gone,
        ),
        Case(alert, f"lasts {minutes} minutes", minutes, fires=True, unlike=unlike, which=which, gone=gone),
    ]


_REFUSED = {ours("token_accepted"): always(0)}
_UNAVAILABLE = {ours("breaker_state", 'cause="unavailable"'): "2 1" * 1 + " 2 1" * MINUTES}
_MISCONFIGURED = {ours("breaker_state", 'cause="misconfigured"'): always(2)}
_BACKLOG = {queue("messages_ready"): always(50), ours("deliveries_total"): "0+100x20 2000+0x150"}
_DEAD = {queue("messages", "journeys.completed.dead-letter.rejected"): always(1)}
_LONELY = {queue("consumers"): always(0)}
_OLD = {ours("oldest_pending_start_timestamp_seconds"): always(60, 1400)}
_EVERYTHING_LATE = registered(100, late=100)

TOKEN = [
    *_from("TokenRejected", 5, _REFUSED),
    *_from("TokenRejected", 5, paused("forbidden")),
    Case(
        "TokenRejected", "before the first use", 60, fires=False, unlike={ours("token_accepted"): "NaN+0x200"}
    ),
    Case("TokenRejected", "one pod of two", 6, fires=True, unlike={another_pod("token_accepted"): always(0)}),
    Case("TokenRejected", "another cause", 60, fires=False, unlike=paused("unavailable")),
    Case(
        "TokenRejected",
        "another release's",
        60,
        fires=False,
        unlike={ours("token_accepted").replace("proofs", "others"): always(0)},
    ),
]
# The start is at 60 s: 14,400 s are left at minute 1201, less than that from 1202 on, firing 5 minutes later.
DEADLINE = [
    Case("DeadlineAtRisk", "four hours left", 1206, fires=False, unlike=_OLD, which='severity="critical"'),
    Case(
        "DeadlineAtRisk", "less than four hours", 1207, fires=True, unlike=_OLD, which='severity="critical"'
    ),
    Case("DeadlineAtRisk", "twelve hours left", 726, fires=False, unlike=_OLD, which='severity="warning"'),
    Case(
        "DeadlineAtRisk", "less than twelve hours", 727, fires=True, unlike=_OLD, which='severity="warning"'
    ),
    Case(
        "DeadlineAtRisk",
        "an old journey that passes",
        1253,
        fires=False,
        unlike={ours("oldest_pending_start_timestamp_seconds"): "0+0x1249 60 0+0x100"},
        which='severity="critical"',
    ),
    Case(
        "DeadlineAtRisk",
        "an old journey that comes and goes",
        1260,
        fires=True,
        unlike={ours("oldest_pending_start_timestamp_seconds"): "0+0x1240" + " 60 0" * 20},
        which='severity="critical"',
    ),
    Case("DeadlineMissed", "one", 31, fires=True, unlike={ours("deadline_missed_total"): "0+0x29 1+0x100"}),
    Case(
        "DeadlineMissed",
        "two hours ago",
        180,
        fires=False,
        unlike={ours("deadline_missed_total"): "0+0x29 1+0x200"},
    ),
    Case("DeadlineMissed", "refused as expired", 31, fires=True, unlike=outcome("expired", "0+0x29 1+0x100")),
]
DEAD_LETTERS = [
    Case(
        "DeadLettering",
        "9 an hour",
        90,
        fires=False,
        unlike={ours("dead_lettered_total", 'reason="invalid"'): rising(9 / 60)},
    ),
    Case(
        "DeadLettering",
        "11 an hour",
        90,
        fires=True,
        unlike={ours("dead_lettered_total", 'reason="invalid"'): rising(11 / 60)},
        which='reason="invalid"',
    ),
    Case(
        "DeadLettering",
        "9 an hour of each of two reasons",
        90,
        fires=False,
        unlike={
            ours("dead_lettered_total", f'reason="{each}"'): rising(9 / 60)
            for each in ("invalid", "rejected")
        },
    ),
    *_from("DeadLetterQueueNotEmpty", 60, _DEAD),
    Case(
        "DeadLetterQueueNotEmpty",
        "given up by the broker, seen per object",
        61,
        fires=True,
        unlike={
            queue("messages", "journeys.completed.dead-letter.delivery-limit", "rabbitmq_queue_"): always(1)
        },
    ),
    Case(
        "DeadLetterQueueNotEmpty",
        "another queue's",
        90,
        fires=False,
        unlike={queue("messages", "journeysXcompleted.dead-letter.rejected"): always(1)},
    ),
]
REGISTRY = [
    *_from("RegistryUnavailable", 15, _UNAVAILABLE),
    Case("RegistryUnavailable", "misconfigured", 60, fires=False, unlike=_MISCONFIGURED),
    *_from("RegistryMisconfigured", 15, _MISCONFIGURED),
    Case("RegistryMisconfigured", "unavailable", 60, fires=False, unlike=_UNAVAILABLE),
    # A rate needs two scrapes, so that it begins with the second.
    *_from("Throttled", 31, {ours("registry_requests_total", 'code="429"'): rising(1)}),
    Case(
        "Throttled",
        "one answer",
        40,
        fires=False,
        unlike={ours("registry_requests_total", 'code="429"'): "0+0x5 1+0x150"},
    ),
]
BROKER = [
    *_from("ConsumerAbsent", 10, {}, gone="build_info"),
    *_from(
        "Disconnected",
        10,
        {ours("broker_connected", 'connection="publish"'): always(0)},
        which='severity="critical"',
    ),
    Case(
        "Disconnected",
        "one pod of two is no page",
        60,
        fires=False,
        unlike={another_pod("broker_connected", 'connection="consume"'): always(0)},
        which='severity="critical"',
    ),
    *_from(
        "Disconnected",
        10,
        {another_pod("broker_connected", 'connection="consume"'): always(0)},
        which='severity="warning"',
    ),
    # The last delivery is at minute 20: 15 minutes without one are over at 35, and two more must pass.
    Case("Stalled", "for 14 minutes and two", 36, fires=False, unlike=_BACKLOG),
    Case("Stalled", "for 15 minutes and two", 38, fires=True, unlike=_BACKLOG),
    Case("Stalled", "nothing waits", 90, fires=False, unlike=_BACKLOG | {queue("messages_ready"): always(0)}),
    Case("Stalled", "paused", 90, fires=False, unlike=_BACKLOG | paused("unavailable")),
    Case(
        "Stalled",
        "not connected, which is another alert",
        90,
        fires=False,
        unlike=_BACKLOG | {ours("broker_connected", 'connection="consume"'): always(0)},
    ),
    *_from("QueueHasNoConsumers", 10, _LONELY),
    Case("QueueHasNoConsumers", "paused", 60, fires=False, unlike=_LONELY | paused("unauthorized")),
    Case("QueueHasNoConsumers", "no pod either", 60, fires=True, unlike=_LONELY, gone="journey_consumer_"),
    Case("QueueGrowing", "for less than an hour", 59, fires=False, unlike={queue("messages"): "1001+10x200"}),
    Case("QueueGrowing", "for an hour and more", 63, fires=True, unlike={queue("messages"): "1001+10x200"}),
    Case(
        "QueueGrowing", "up to the limit", 150, fires=False, unlike={queue("messages"): "0+6x166 1000+0x50"}
    ),
    Case("QueueGrowing", "falling", 150, fires=False, unlike={queue("messages"): "9000-10x200"}),
]
_BURN = ((14, 15, '1h"', 5), (5, 7, '6h"', 18), (0.9, 1.1, '3d"', 70))
BUDGET = [
    case
    for silent, loud, window, minutes in _BURN
    for case in (
        Case(
            "ErrorBudgetBurn",
            f"{silent} of a thousand",
            150,
            fires=False,
            unlike=registered(1000 - silent) | outcome("exhausted", rising(silent)),
            which=f'window="{window}',
        ),
        Case(
            "ErrorBudgetBurn",
            f"{loud} of a thousand",
            minutes,
            fires=True,
            unlike=registered(1000 - loud) | outcome("exhausted", rising(loud)),
            which=f'window="{window}',
        ),
    )
] + [
    Case(
        "ErrorBudgetBurn", "registered too late", 90, fires=True, unlike=_EVERYTHING_LATE, which='window="1h"'
    ),
    Case("ErrorBudgetBurn", "refused payloads", 150, fires=False, unlike=outcome("invalid", rising(50))),
    Case(
        "ErrorBudgetBurn",
        "over for ten minutes",
        70,
        fires=False,
        unlike=outcome("exhausted", "0+50x60 3000+0x100"),
        which='window="1h"',
    ),
    Case(
        "ErrorBudgetBurn",
        "until this minute",
        60,
        fires=True,
        unlike=outcome("exhausted", "0+50x60 3000+0x100"),
        which='window="1h"',
    ),
    Case(
        "ErrorBudgetBurn",
        "hardly any journeys",
        150,
        fires=False,
        unlike=registered(0) | outcome("exhausted", rising(0.9)),
        which='window="1h"',
    ),
    Case(
        "ErrorBudgetBurn",
        "enough journeys",
        150,
        fires=True,
        unlike=registered(0) | outcome("exhausted", rising(1.1)),
        which='window="1h"',
    ),
]
CASES = [*TOKEN, *DEADLINE, *DEAD_LETTERS, *REGISTRY, *BROKER, *BUDGET]
