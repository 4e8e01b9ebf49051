"""The dashboard for the owners of the proofs: how many, how late, and which were refused and why."""

from tools.dashboards.grafana import (
    DEAD_LETTER_QUEUES,
    IN_TIME,
    IN_TIME_RATIO,
    TIME_LEFT,
    TIME_LEFT_QUERY,
    Dashboard,
    Limit,
    Panel,
    broker,
    own,
)

_DAY = "[1d]"
_ALL = own("journeys_total")
_SUCCESS = 'outcome=~"registered|already_registered"'
_UNVERIFIED = 'proof="unverified"'
_REFUSED = 'outcome!~"registered|already_registered"'
_AGES = f"sum by (le) (increase({own('journey_age_at_registration_seconds_bucket')}{_DAY}))"

_TODAY = (
    Panel(
        "Registered",
        "short",
        "Journeys that the Registry accepted in the time range.",
        "The journeys of your service, minus the refused ones.",
        "Fewer than usual: check the dead letters, and what your systems publish.",
        ((f"""sum(increase({own("journeys_total", 'outcome="registered"')}[$__range]))""", "registered"),),
        kind="stat",
        width=6,
        height=5,
    ),
    Panel(
        "In time",
        "percentunit",
        "Share of the journeys that were registered within the Registry's 24 hours; refused payloads "
        "do not count.",
        "At or above the objective.",
        "Ask operations: the dashboard of the service shows the cause of the delay.",
        ((IN_TIME_RATIO, "in time"),),
        kind="stat",
        width=6,
        height=5,
        steps=IN_TIME,
        idle="no journeys",
        decimals=3,
    ),
    Panel(
        "Proofs lost",
        "short",
        "Journeys that were more than 24 hours old before they could be registered.",
        "0.",
        "Each is lost. Ask operations for the cause of the delay.",
        (
            (
                f"sum(increase({own('deadline_missed_total')}[$__range]))",
                "too old",
            ),
        ),
        kind="stat",
        width=6,
        height=5,
        steps=((None, "green"), (1, "red")),
    ),
    Panel(
        "Time left",
        "s",
        "Time until the oldest journey that a pod has received is too old.",
        "More than half a day, or idle.",
        "Tell operations.",
        ((TIME_LEFT_QUERY, "time left"),),
        kind="stat",
        width=6,
        height=5,
        steps=TIME_LEFT,
        idle="idle",
    ),
)
_DAYS = (
    Panel(
        "Journeys registered per day",
        "short",
        "Each bar is the 24 hours before it (UTC). already_registered: the Registry had them; "
        "unverified: it answered 409, and could not be asked whether the journey counts.",
        "Follows weekdays and seasons.",
        "A gap: nothing was published, or nothing was accepted; see the refusals of the same day.",
        (
            (f"sum by (outcome) (increase({own('journeys_total', _SUCCESS)}{_DAY}))", "{{outcome}}"),
            (f"sum(increase({own('already_registered_total', _UNVERIFIED)}{_DAY}))", "of these unverified"),
        ),
        width=12,
        height=9,
        bars=True,
        interval="1d",
    ),
    Panel(
        "Refusals per day, by reason",
        "short",
        "Each bar is the 24 hours before it (UTC). For the fields of the first two see the next panel.",
        "invalid, rejected: a few per thousand.",
        "invalid: your payloads break a rule, see journey-consumer validate. rejected: the Registry "
        "refuses them. Others: ask operations.",
        ((f"sum by (outcome) (increase({own('journeys_total', _REFUSED)}{_DAY}))", "{{outcome}}"),),
        width=12,
        height=9,
        bars=True,
        interval="1d",
    ),
    Panel(
        "Refusals per day, by field",
        "short",
        "Each bar is the 24 hours before it (UTC): invalid and rejected journeys by the first field that was "
        "refused. payload: refused as a whole, or with an error that names no field.",
        "A few per thousand, spread over fields.",
        "A field rises: its values changed at their source, or the Registry's rule did. See the details: "
        "journey-consumer dead-letters summary.",
        (
            (
                f"sum by (reason, field) (increase({own('refused_fields_total')}{_DAY})) > 0",
                "{{reason}}: {{field}}",
            ),
        ),
        width=24,
        height=9,
        bars=True,
        interval="1d",
    ),
    Panel(
        "Refused share per day",
        "percentunit",
        "Share of the journeys with a final outcome that were not registered, in the 24 hours before.",
        "A few per thousand.",
        "Rising: a change in your payloads, or in the Registry's rules.",
        (
            (
                f"sum(increase({own('journeys_total', _REFUSED)}{_DAY})) / (sum(increase({_ALL}{_DAY})) > 0)",
                "refused",
            ),
        ),
        least=0,
        width=8,
        interval="1h",
    ),
    Panel(
        "Age at registration",
        "s",
        "Time from a journey's start to its registration, over the 24 hours before each point.",
        "Hours at most; the Registry accepts 24.",
        "Rising: journeys are published late, or wait long.",
        (
            (f"histogram_quantile(0.5, {_AGES})", "half within"),
            (f"histogram_quantile(0.99, {_AGES})", "99 of 100 within"),
        ),
        width=8,
        interval="1h",
    ),
    Panel(
        "Dead letters waiting",
        "short",
        "Dead letters that were neither replayed nor discarded.",
        "0.",
        "They can be registered until 24 hours after their start: fix the cause and replay them.",
        ((f"max by (queue) ({broker('queue_messages', DEAD_LETTER_QUEUES)})", "{{queue}}"),),
        width=8,
        steps=((None, "green"), (Limit("deadLettersWaiting", plus=1), "red")),
    ),
)
BUSINESS = Dashboard(
    uid="journey-consumer-business",
    title="Journey consumer: proofs",
    description="How many journeys became proofs, how many in time, and which were refused and why.",
    since="now-14d",
    refresh="5m",
    rows=(("The time range", _TODAY), ("By day", _DAYS)),
)
