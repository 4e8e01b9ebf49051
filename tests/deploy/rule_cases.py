"""What the alerts must do: for each, how the series of a healthy release differ when it fires.

The thresholds are those that the chart has when an operator sets none. The alerts about dead letters are in
`dead_letter_cases`.
"""

from tests.deploy.dead_letter_cases import DEAD_LETTERS
from tests.deploy.rule_series import (
    MINUTES,
    Case,
    always,
    another_pod,
    lasting,
    ours,
    outcome,
    paused,
    queue,
    registered,
    rising,
)

_REFUSED = {ours("token_accepted"): always(0)}
_UNAVAILABLE = {ours("breaker_state", 'cause="unavailable"'): "2 1" * 1 + " 2 1" * MINUTES}
_MISCONFIGURED = {ours("breaker_state", 'cause="misconfigured"'): always(2)}
_BACKLOG = {queue("messages_ready"): always(50), ours("deliveries_total"): "0+100x20 2000+0x150"}
_LONELY = {queue("consumers"): always(0)}
_OLD = {ours("oldest_pending_start_timestamp_seconds"): always(60, 1600)}
_EVERYTHING_LATE = registered(100, late=100)

TOKEN = [
    *lasting("JourneysTokenRejected", 5, _REFUSED),
    *lasting("JourneysTokenRejected", 5, paused("forbidden")),
    Case(
        "JourneysTokenRejected",
        "before the first use",
        60,
        fires=False,
        unlike={ours("token_accepted"): "NaN+0x200"},
    ),
    Case(
        "JourneysTokenRejected",
        "one pod of two",
        6,
        fires=True,
        unlike={another_pod("token_accepted"): always(0)},
    ),
    Case("JourneysTokenRejected", "another cause", 60, fires=False, unlike=paused("unavailable")),
    Case(
        "JourneysTokenRejected",
        "another release's",
        60,
        fires=False,
        unlike={ours("token_accepted").replace("proofs", "others"): always(0)},
    ),
]
_WEEK = 604_800


def _token(expires: int, loaded: int = 1, minutes: int = 2000) -> dict[str, str]:
    return {
        ours("token_expiry_timestamp_seconds"): always(expires, minutes),
        ours("token_loaded_timestamp_seconds"): always(loaded, minutes),
    }


# A week is left at minute 600 (36,000 s), and ten minutes must pass.
_EXPIRING = _token(_WEEK + 36_000, minutes=12_000)
TOKEN += [
    Case("JourneysTokenExpires", "a week left", 610, fires=False, unlike=_EXPIRING),
    Case("JourneysTokenExpires", "less than a week left", 611, fires=True, unlike=_EXPIRING),
    Case("JourneysTokenExpires", "expired", 11_000, fires=True, unlike=_EXPIRING),
    Case("JourneysTokenExpires", "a date is not known", 1600, fires=False, unlike=_token(0)),
    Case("JourneysTokenExpires", "exchanged, idle since", 1600, fires=False, unlike=_token(600, 300)),
    Case(
        "JourneysTokenExpires",
        "of two pods one has the old one",
        611,
        fires=True,
        unlike={
            **_token(_WEEK * 9, minutes=12_000),
            another_pod("token_expiry_timestamp_seconds"): always(_WEEK + 36_000, 12_000),
            another_pod("token_loaded_timestamp_seconds"): always(1, 12_000),
        },
    ),
]
# The start is at 60 s: 14,400 s are left at minute 1201, less than that from 1202 on, firing 5 minutes later.
DEADLINE = [
    Case(
        "JourneysDeadlineAtRisk",
        "four hours left",
        1206,
        fires=False,
        unlike=_OLD,
        which='severity="critical"',
    ),
    Case(
        "JourneysDeadlineAtRisk",
        "less than four hours",
        1207,
        fires=True,
        unlike=_OLD,
        which='severity="critical"',
    ),
    Case(
        "JourneysDeadlineAtRisk",
        "less than four hours is one alert",
        1207,
        fires=False,
        unlike=_OLD,
        which='severity="warning"',
    ),
    Case(
        "JourneysDeadlineAtRisk", "nothing left", 1500, fires=True, unlike=_OLD, which='severity="critical"'
    ),
    Case(
        "JourneysDeadlineAtRisk",
        "twelve hours left",
        726,
        fires=False,
        unlike=_OLD,
        which='severity="warning"',
    ),
    Case(
        "JourneysDeadlineAtRisk",
        "less than twelve hours",
        727,
        fires=True,
        unlike=_OLD,
        which='severity="warning"',
    ),
    Case(
        "JourneysDeadlineAtRisk",
        "an old journey that passes",
        1253,
        fires=False,
        unlike={ours("oldest_pending_start_timestamp_seconds"): "0+0x1249 60 0+0x100"},
        which='severity="critical"',
    ),
    Case(
        "JourneysDeadlineAtRisk",
        "an old journey that comes and goes",
        1260,
        fires=True,
        unlike={ours("oldest_pending_start_timestamp_seconds"): "0+0x1240" + " 60 0" * 20},
        which='severity="critical"',
    ),
    Case(
        "JourneysDeadlineMissed",
        "one",
        31,
        fires=True,
        unlike={ours("deadline_missed_total"): "0+0x29 1+0x100"},
    ),
    Case(
        "JourneysDeadlineMissed",
        "two hours ago",
        180,
        fires=False,
        unlike={ours("deadline_missed_total"): "0+0x29 1+0x200"},
    ),
    Case(
        "JourneysDeadlineMissed",
        "refused as expired",
        31,
        fires=True,
        unlike=outcome("expired", "0+0x29 1+0x100"),
    ),
]
REGISTRY = [
    *lasting("JourneysRegistryUnavailable", 15, _UNAVAILABLE),
    Case("JourneysRegistryUnavailable", "misconfigured", 60, fires=False, unlike=_MISCONFIGURED),
    *lasting("JourneysRegistryMisconfigured", 15, _MISCONFIGURED),
    Case("JourneysRegistryMisconfigured", "unavailable", 60, fires=False, unlike=_UNAVAILABLE),
    # A rate needs two scrapes, so that it begins with the second.
    *lasting("JourneysThrottled", 31, {ours("registry_requests_total", 'code="429"'): rising(1)}),
    Case(
        "JourneysThrottled",
        "one answer",
        40,
        fires=False,
        unlike={ours("registry_requests_total", 'code="429"'): "0+0x5 1+0x150"},
    ),
]
BROKER = [
    *lasting("JourneysConsumerAbsent", 10, {}, absent="build_info"),
    *lasting(
        "JourneysDisconnected",
        10,
        {ours("broker_connected", 'connection="publish"'): always(0)},
        which='severity="critical"',
    ),
    Case(
        "JourneysDisconnected",
        "one pod of two is no page",
        60,
        fires=False,
        unlike={another_pod("broker_connected", 'connection="consume"'): always(0)},
        which='severity="critical"',
    ),
    *lasting(
        "JourneysDisconnected",
        10,
        {another_pod("broker_connected", 'connection="consume"'): always(0)},
        which='severity="warning"',
    ),
    # The last delivery is at minute 20: 15 minutes without one are over at 35, and two more must pass.
    Case("JourneysStalled", "for 14 minutes and two", 36, fires=False, unlike=_BACKLOG),
    Case("JourneysStalled", "for 15 minutes and two", 38, fires=True, unlike=_BACKLOG),
    Case(
        "JourneysStalled",
        "nothing waits",
        90,
        fires=False,
        unlike=_BACKLOG | {queue("messages_ready"): always(0)},
    ),
    Case("JourneysStalled", "paused", 90, fires=False, unlike=_BACKLOG | paused("unavailable")),
    Case(
        "JourneysStalled",
        "not connected, which is another alert",
        90,
        fires=False,
        unlike=_BACKLOG | {ours("broker_connected", 'connection="consume"'): always(0)},
    ),
    *lasting("JourneysPublisherStuck", 10, paused("publisher")),
    Case("JourneysPublisherStuck", "another cause", 60, fires=False, unlike=paused("unavailable")),
    *(
        case
        for metric in ("messages", "messages_ready", "consumers")
        for case in lasting(
            "JourneysBrokerMetricsAbsent", 15, {}, absent=f'queue_{metric}{{job="rabbitmq",vhost="/"'
        )
    ),
    Case(
        "JourneysBrokerMetricsAbsent",
        "seen per object",
        60,
        fires=False,
        unlike={
            queue(each, prefix="rabbitmq_queue_"): always(1)
            for each in ("messages", "messages_ready", "consumers")
        },
        absent="rabbitmq_detailed",
    ),
    *lasting("JourneysQueueHasNoConsumers", 10, _LONELY),
    Case("JourneysQueueHasNoConsumers", "paused", 60, fires=False, unlike=_LONELY | paused("unauthorized")),
    Case(
        "JourneysQueueHasNoConsumers",
        "no pod either",
        60,
        fires=True,
        unlike=_LONELY,
        absent="journey_consumer_",
    ),
    Case(
        "JourneysQueueGrowing",
        "for less than an hour",
        59,
        fires=False,
        unlike={queue("messages"): "1001+10x200"},
    ),
    Case(
        "JourneysQueueGrowing",
        "for an hour and more",
        63,
        fires=True,
        unlike={queue("messages"): "1001+10x200"},
    ),
    Case(
        "JourneysQueueGrowing",
        "up to the limit",
        150,
        fires=False,
        unlike={queue("messages"): "0+6x166 1000+0x50"},
    ),
    Case("JourneysQueueGrowing", "falling", 150, fires=False, unlike={queue("messages"): "9000-10x200"}),
]
_BURN = ((14, 15, '1h"', 5), (5, 7, '6h"', 18), (0.9, 1.1, '3d"', 70))
BUDGET = [
    case
    for lost, more, window, minutes in _BURN
    for case in (
        Case(
            "JourneysErrorBudgetBurn",
            f"{lost} of a thousand",
            150,
            fires=False,
            unlike=registered(1000 - lost) | outcome("exhausted", rising(lost)),
            which=f'window="{window}',
        ),
        Case(
            "JourneysErrorBudgetBurn",
            f"{more} of a thousand",
            minutes,
            fires=True,
            unlike=registered(1000 - more) | outcome("exhausted", rising(more)),
            which=f'window="{window}',
        ),
    )
] + [
    Case(
        "JourneysErrorBudgetBurn",
        "registered too late",
        90,
        fires=True,
        unlike=_EVERYTHING_LATE,
        which='window="1h"',
    ),
    Case(
        "JourneysErrorBudgetBurn", "refused payloads", 150, fires=False, unlike=outcome("invalid", rising(50))
    ),
    Case(
        "JourneysErrorBudgetBurn",
        "over for ten minutes",
        70,
        fires=False,
        unlike=outcome("exhausted", "0+50x60 3000+0x100"),
        which='window="1h"',
    ),
    Case(
        "JourneysErrorBudgetBurn",
        "until this minute",
        60,
        fires=True,
        unlike=outcome("exhausted", "0+50x60 3000+0x100"),
        which='window="1h"',
    ),
    Case(
        "JourneysErrorBudgetBurn",
        "hardly any journeys",
        150,
        fires=False,
        unlike=registered(0) | outcome("exhausted", rising(0.9)),
        which='window="1h"',
    ),
    Case(
        "JourneysErrorBudgetBurn",
        "enough journeys",
        150,
        fires=True,
        unlike=registered(0) | outcome("exhausted", rising(1.1)),
        which='window="1h"',
    ),
]
CASES = [*TOKEN, *DEADLINE, *DEAD_LETTERS, *REGISTRY, *BROKER, *BUDGET]
