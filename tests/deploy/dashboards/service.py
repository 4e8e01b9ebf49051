"""The dashboard of the service: rows follow the data, from health through the Registry to the process."""

from tests.deploy.dashboards.grafana import Dashboard, Panel, own
from tests.deploy.dashboards.queries import (
    IN_TIME,
    IN_TIME_RATIO,
    RATE,
    RED_ABOVE_0,
    TIME_LEFT,
    TIME_LEFT_QUERY,
    quantiles,
    stat,
)
from tests.deploy.dashboards.surroundings import BROKER, DEAD_LETTERS, LIMITS, PROCESS

_FAILED = own("registry_requests_total", 'code!~"200|201|2xx|400|409|413|422"')

_HEALTH = (
    stat(
        "Time left",
        "s",
        (
            "Time until the oldest journey that was taken and is not registered is 24 hours old.",
            "More than half a day, or no data: nothing is pending.",
            "Runbook, DeadlineAtRisk: find out what holds it back: token, Registry, broker.",
        ),
        TIME_LEFT_QUERY,
        steps=TIME_LEFT,
    ),
    stat(
        "Registered in time",
        "percentunit",
        (
            "Share of the range's journeys that were registered within 24 hours, without refused payloads.",
            "At or above the objective.",
            "Runbook, ErrorBudgetBurn: the row of dead letters tells the reasons.",
        ),
        IN_TIME_RATIO,
        steps=IN_TIME,
        decimals=3,
    ),
    stat(
        "Token",
        "bool_yes_no",
        (
            "Whether every pod's last use of the token was accepted by the Registry.",
            "Accepted; no data before the first use.",
            "Runbook, TokenRejected: put a valid token into the Secret; consumption resumes by itself.",
        ),
        f"min({own('token_accepted')})",
        names=(("0", "refused", "red"), ("1", "accepted", "green")),
    ),
    stat(
        "Pods",
        "short",
        (
            "Pods that Prometheus finds, by version.",
            "As many as are deployed, of one version except during a roll-out.",
            "Runbook, ConsumerAbsent: kubectl get pods tells why they do not start.",
        ),
        f"count by (version) ({own('build_info')})",
        legend="{{version}}",
        steps=((None, "red"), (1, "green")),
    ),
    stat(
        "Paused",
        "bool_yes_no",
        (
            "Whether something holds consumption back in some pod, by cause.",
            "No, for every cause.",
            (
                "unauthorized, forbidden: the token. misconfigured: the address. unavailable: the Registry. "
                "throttled: the Registry's limit. publisher: the broker does not confirm."
            ),
        ),
        f"max by (cause) ({own('paused')})",
        legend="{{cause}}",
        names=(("0", "no", "green"), ("1", "paused", "red")),
    ),
    stat(
        "Since the last success",
        "s",
        (
            "Time since a journey was last registered or found registered.",
            "Short while journeys arrive; long in quiet hours.",
            "With messages waiting: runbook, Stalled, TokenRejected or RegistryUnavailable.",
        ),
        f"time() - max({own('last_success_timestamp_seconds')} > 0)",
    ),
)
_INTAKE = (
    Panel(
        "Deliveries and fates",
        "ops",
        "Messages received a second, and what became of them once the broker was told.",
        "registered follows deliveries; other fates are rare.",
        "Deliveries without fates: the Registry is slow, or consumption is paused.",
        (
            (f"sum(rate({own('deliveries_total')}{RATE}))", "delivered"),
            (f"sum by (outcome) (rate({own('journeys_total')}{RATE}))", "{{outcome}}"),
            (f"sum by (kind) (rate({own('returned_total')}{RATE}))", "{{kind}}"),
        ),
        width=12,
    ),
    Panel(
        "Taken and not settled",
        "short",
        "Deliveries in all pods: in flight, of them waiting (for a pause, a retry, an end), and how many "
        "the broker may send ahead.",
        "in flight well below prefetch; waiting near 0.",
        "In flight at the prefetch for long: the Registry is slow. Prefetch 0: paused.",
        (
            (f"sum({own('in_flight')})", "in flight"),
            (f"sum({own('held')})", "waiting"),
            (f"sum({own('prefetch')})", "prefetch"),
        ),
        width=12,
    ),
    Panel(
        "Redeliveries",
        "ops",
        "Messages that the broker had delivered before.",
        "0, and a few after a restart or a lost connection.",
        "A steady rate: connections keep breaking; see reconnects.",
        ((f"sum(rate({own('redelivered_total')}{RATE}))", "redelivered"),),
    ),
    Panel(
        "Time from delivery to settlement",
        "s",
        "How long a delivery stays in a pod.",
        "The Registry's answer time, and a little; minutes where journeys are tried again.",
        "Compare with the Registry's answer time: the rest is waiting.",
        quantiles("settlement_duration_seconds"),
    ),
    Panel(
        "Since the last delivery",
        "s",
        "Time since the broker last delivered anything to any pod.",
        "Short while messages wait in the queue.",
        "Runbook, Stalled, when messages wait.",
        ((f"time() - max({own('last_delivery_timestamp_seconds')} > 0)", "since the last delivery"),),
    ),
)
_REGISTRY = (
    Panel(
        "Answers",
        "reqps",
        "Submissions a second by status, or by why there was no answer.",
        "200, 201 and 409.",
        "401: token. 404: address or version. 429: limit. 5xx, timeout, connect: Registry or network.",
        ((f"sum by (code) (rate({own('registry_requests_total')}{RATE})) > 0", "{{code}}"),),
    ),
    Panel(
        "Failures",
        "percentunit",
        "Share of submissions that ended in something else than 200, 201, 409, or a refusal of the payload.",
        "Near 0.",
        "Near 1: an outage, and consumption pauses. In between: the Registry is at its limit.",
        (
            (
                f"sum(rate({_FAILED}{RATE})) / sum(rate({own('registry_requests_total')}{RATE}))",
                "failures",
            ),
        ),
        least=0,
        most=1,
    ),
    Panel(
        "Answer time",
        "s",
        "Time from sending a journey to its answer or fault.",
        "Tens to hundreds of milliseconds.",
        "Near registry.timeoutSeconds: the Registry is overloaded, or a proxy holds requests back.",
        quantiles("registry_request_duration_seconds"),
    ),
    Panel(
        "Retries in the pod, by reason",
        "ops",
        "Submissions tried again without leaving the pod, by what failed before.",
        "A burst when the Registry restarts.",
        "A steady rate is an outage or a bad network: see the answers.",
        ((f"sum by (reason) (rate({own('retries_total')}{RATE})) > 0", "{{reason}}"),),
    ),
)
_DEADLINE = (
    Panel(
        "Time left of the oldest pending journey",
        "s",
        "Time until the oldest journey that was taken and is not registered is 24 hours old. Journeys that "
        "wait in the queue or in a delay queue are seen when they are delivered.",
        "Above both lines; no data while nothing is pending.",
        "Runbook, DeadlineAtRisk.",
        ((TIME_LEFT_QUERY, "time left"),),
        width=12,
        steps=TIME_LEFT,
    ),
    Panel(
        "Age at registration",
        "s",
        "Time from a journey's start to its registration; the Registry takes 24 hours.",
        "Hours at most: the ride itself, and what the operator's own systems need.",
        "Rising: a backlog, or journeys that are published late.",
        quantiles("journey_age_at_registration_seconds"),
        width=8,
    ),
    stat(
        "Deadlines missed",
        "short",
        (
            "Journeys of the time range that were dead-lettered more than 24 hours after their start.",
            "0.",
            "Each is a proof lost for good. Runbook, DeadlineMissed.",
        ),
        f"sum(increase({own('deadline_missed_total')}[$__range]))",
        steps=RED_ABOVE_0,
        height=8,
    ),
)
SERVICE = Dashboard(
    uid="journey-consumer-service",
    title="Journey consumer: service",
    description="What the consumer does, and what it waits for. docs/runbook.md tells what to do.",
    since="now-6h",
    refresh="30s",
    rows=(
        ("Health", _HEALTH),
        ("Intake", _INTAKE),
        ("Registry", _REGISTRY),
        ("Deadline", _DEADLINE),
        ("Dead letters", DEAD_LETTERS),
        ("Limiter and breakers", LIMITS),
        ("Broker", BROKER),
        ("Process and token", PROCESS),
    ),
)
