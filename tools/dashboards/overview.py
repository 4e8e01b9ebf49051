"""The first two rows of the service's dashboard: what somebody asks at night, and the state of the pods."""

from tools.dashboards.grafana import (
    DEAD_LETTER_QUEUES,
    IN_TIME,
    IN_TIME_RATIO,
    MAIN_QUEUE,
    TIME_LEFT,
    TIME_LEFT_QUERY,
    Limit,
    Panel,
    broker,
    own,
    stat,
)

NOW = (
    stat(
        "Time left",
        "s",
        (
            "In time? Time until the oldest journey that a pod has received is 24 hours old.",
            "More than half a day, or idle.",
            "Runbook, JourneysDeadlineAtRisk: find the cause of the delay: token, Registry, broker.",
        ),
        TIME_LEFT_QUERY,
        steps=TIME_LEFT,
        idle="idle",
    ),
    Panel(
        "What is wrong",
        "none",
        "What the pods themselves know to be wrong now.",
        "Nothing.",
        (
            "Runbook, JourneysTokenRejected; runbook, JourneysRegistryUnavailable; "
            "runbook, JourneysRegistryMisconfigured; runbook, JourneysDisconnected; "
            "runbook, JourneysPublisherStuck. throttled: the Registry's limit."
        ),
        (
            (f"max by (cause) ({own('paused')}) == 1", "paused: {{cause}}"),
            (f"min({own('token_accepted')}) == 0", "token refused"),
            (f"min by (connection) ({own('broker_connected')}) == 0", "not connected: {{connection}}"),
        ),
        kind="stat",
        width=4,
        height=4,
        steps=((None, "red"),),
        idle="nothing",
        text="name",
    ),
    stat(
        "Journeys waiting",
        "short",
        (
            "Messages in the queue, as the broker counts them.",
            "Near 0; a backlog after a pause, falling.",
            (
                "Runbook, JourneysQueueGrowing; during a pause its cause. "
                "Without metrics: runbook, JourneysBrokerMetricsAbsent."
            ),
        ),
        f"sum(max by (queue) ({broker('queue_messages', MAIN_QUEUE)}))",
        steps=((None, "green"), (Limit("backlogMessages"), "red")),
        idle="no metrics of the broker",
    ),
    stat(
        "Dead letters",
        "short",
        (
            "Messages in all dead-letter queues, as the broker counts them.",
            "0.",
            "Runbook, JourneysDeadLetterQueueNotEmpty: fix the cause, then replay them.",
        ),
        f"sum(max by (queue) ({broker('queue_messages', DEAD_LETTER_QUEUES)}))",
        steps=((None, "green"), (Limit("deadLettersWaiting", plus=1), "red")),
        idle="no metrics of the broker",
    ),
    stat(
        "Nearest dead letter",
        "s",
        (
            "How long the dead letter with the nearest deadline can still be registered, at the last read.",
            "None.",
            "Runbook, JourneysDeadLetterDeadlineNear: fix the cause and replay, earliest deadline first.",
        ),
        f"min({own('dead_letters_oldest_deadline_timestamp_seconds')} > time()) - time()",
        steps=((None, "red"), (Limit("deadLetterTimeLeftSeconds"), "green")),
        idle="none",
    ),
    stat(
        "Registered in time",
        "percentunit",
        (
            "Share of the range's journeys that were registered within 24 hours, without refused payloads.",
            "At or above the objective.",
            "Runbook, JourneysErrorBudgetBurn: the row of dead letters shows the reasons.",
        ),
        IN_TIME_RATIO,
        steps=IN_TIME,
        decimals=3,
        idle="no journeys",
    ),
)
HEALTH = (
    stat(
        "Token",
        "bool_yes_no",
        (
            "Whether the Registry accepted the token at the last use of every pod.",
            "Accepted.",
            "Runbook, JourneysTokenRejected: put a valid token into the Secret; that ends the pause.",
        ),
        f"min({own('token_accepted')})",
        names=(("0", "refused", "red"), ("1", "accepted", "green")),
        width=6,
        idle="not used yet",
    ),
    stat(
        "Pods",
        "short",
        (
            "Pods that Prometheus scrapes, by version.",
            "As many as are deployed, of one version except during a roll-out.",
            "Runbook, JourneysConsumerAbsent: kubectl get pods shows why they do not start.",
        ),
        f"count by (version) ({own('build_info')})",
        legend="{{version}}",
        steps=((None, "red"), (1, "green")),
        width=6,
    ),
    stat(
        "Paused",
        "bool_yes_no",
        (
            "Whether consumption is paused in any pod, by cause.",
            "No, for every cause.",
            (
                "unauthorized, forbidden: the token. misconfigured: the address. unavailable: the Registry. "
                "throttled: the Registry's limit. publisher: the broker does not confirm."
            ),
        ),
        f"max by (cause) ({own('paused')})",
        legend="{{cause}}",
        names=(("0", "no", "green"), ("1", "paused", "red")),
        width=6,
    ),
    stat(
        "Since the last success",
        "s",
        (
            "Time since a journey was last registered or found registered.",
            "Short while journeys arrive; long without traffic.",
            "With messages waiting: runbook, JourneysStalled; see what is wrong in the first row.",
        ),
        f"time() - max({own('last_success_timestamp_seconds')} > 0)",
        width=6,
        idle="none yet",
    ),
)
