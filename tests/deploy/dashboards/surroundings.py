"""The lower rows of the service's dashboard: what lies around it, and what it runs on."""

from tests.deploy.dashboards.grafana import (
    DEAD_LETTER_QUEUES,
    DELAY_QUEUES,
    MAIN_QUEUE,
    Limit,
    Panel,
    broker,
    own,
    process,
)
from tests.deploy.dashboards.queries import RATE, RED_ABOVE_0, stat

DEAD_LETTERS = (
    Panel(
        "Dead letters of the last hour, by reason",
        "short",
        "Journeys put aside within the hour before.",
        "0, or a few invalid and rejected ones.",
        "Runbook, DeadLettering: each reason has its own remedy.",
        ((f"sum by (reason) (increase({own('dead_lettered_total')}[1h]))", "{{reason}}"),),
        steps=((None, "green"), (Limit("deadLettersPerHour"), "red")),
    ),
    Panel(
        "Dead letters waiting",
        "short",
        "Messages in the dead-letter queues, as the broker counts them.",
        "0.",
        "Runbook, DeadLetterQueueNotEmpty: mend the cause, then replay them before their 24 hours are over.",
        ((f"max by (queue) ({broker('queue_messages', DEAD_LETTER_QUEUES)})", "{{queue}}"),),
        steps=((None, "green"), (Limit("deadLettersWaiting", plus=1), "red")),
    ),
    Panel(
        "Failed publishes",
        "short",
        "Publishes of dead letters and returns that the broker did not confirm (each is tried again), and "
        "those that wait for a confirm now.",
        "0.",
        "returned: a queue is missing, run `journey-consumer declare`. nacked: a queue is full. timeout, "
        "connection: the broker.",
        (
            (f"sum by (kind) (increase({own('publish_failures_total')}{RATE}))", "{{kind}}"),
            (f"sum({own('publishes_unconfirmed')})", "unconfirmed"),
        ),
    ),
    Panel(
        "Tightest deadline among dead letters, by reason",
        "s",
        "Time until the first dead letter of a reason is too old to be registered, as of the last look: "
        "every five minutes, at the first 1,000 of each queue.",
        "No data: there are none.",
        "Runbook, DeadLetterDeadlineNear: mend the cause and replay the nearest first; below 0 it is too "
        "late for that one.",
        (
            (
                f"min by (reason) ({own('dead_letters_oldest_deadline_timestamp_seconds')} > 0) - time()",
                "{{reason}}",
            ),
        ),
        steps=((None, "red"), (Limit("deadLetterTimeLeftSeconds"), "green")),
    ),
    Panel(
        "Sent again, by outcome",
        "short",
        "What became of journeys that were dead letters and were sent again, by a person or by the service.",
        "0; after a replay registered and already_registered.",
        "Anything else lies dead again: stop, and mend the cause that `dead-letters summary` shows.",
        ((f"sum by (outcome) (increase({own('replays_total')}{RATE}))", "{{outcome}}"),),
    ),
    Panel(
        "Outcome events, by result",
        "short",
        "Events about final outcomes; 0 where events.exchange is not set.",
        "published only.",
        "unrouted: bind a queue for that outcome, if somebody wants it; dropped: make the exchange, or look "
        "why the broker does not confirm.",
        ((f"sum by (result) (increase({own('events_total')}{RATE}))", "{{result}}"),),
    ),
)
LIMITS = (
    Panel(
        "Waiting for our own limit",
        "s",
        "Seconds that submissions waited for the rate limit, per second.",
        "0, except while a backlog is worked off.",
        "For long: more journeys come than the limit allows; see docs/capacity.md.",
        ((f"sum(rate({own('limiter_wait_seconds_total')}{RATE}))", "waited"),),
        width=6,
    ),
    Panel(
        "Left of the Registry's limit",
        "short",
        "Requests left in the Registry's current window, as its last answer said.",
        "Above 0.",
        "Near 0: pods, other releases or tools behind the same address share the limit.",
        ((f"min({own('rate_limit_remaining')})", "left"),),
        width=6,
        least=0,
    ),
    Panel(
        "Circuit breakers",
        "short",
        "State by cause: 0 closed, 1 probing, 2 open.",
        "0.",
        "unauthorized, forbidden, misconfigured: somebody has to act. unavailable: it closes by itself.",
        ((f"max by (cause) ({own('breaker_state')})", "{{cause}}"),),
        width=6,
        least=0,
        most=2,
        decimals=0,
    ),
    Panel(
        "Changes of the breakers",
        "short",
        "How often a breaker changed its state.",
        "0.",
        "Often open and closed again: the Registry is at its limit.",
        (
            (
                f"sum by (cause, to) (increase({own('breaker_transitions_total')}{RATE})) > 0",
                "{{cause}} {{to}}",
            ),
        ),
        width=6,
    ),
)
BROKER = (
    Panel(
        "Messages in the queue",
        "short",
        "What waits in the queue, and what pods hold unacknowledged.",
        "Near 0; a backlog after a pause, falling.",
        "Runbook, QueueGrowing; docs/capacity.md tells how long a backlog takes.",
        (
            (f"max by (queue) ({broker('queue_messages_ready', MAIN_QUEUE)})", "ready"),
            (f"max by (queue) ({broker('queue_messages_unacked', MAIN_QUEUE)})", "unacknowledged"),
        ),
        steps=((None, "green"), (Limit("backlogMessages"), "red")),
    ),
    Panel(
        "Consumers of the queue",
        "short",
        "Consumers as the broker sees them; each pod is one, and none while it is paused.",
        "One for each pod.",
        "0 and not paused: runbook, QueueHasNoConsumers.",
        ((f"max by (queue) ({broker('queue_consumers', MAIN_QUEUE)})", "consumers"),),
        least=0,
        decimals=0,
    ),
    Panel(
        "Messages in the delay queues",
        "short",
        "Journeys that wait for their next visit.",
        "0.",
        "The Registry fails for some journeys: see the answers.",
        ((f"max by (queue) ({broker('queue_messages', DELAY_QUEUES)})", "{{queue}}"),),
    ),
    Panel(
        "Connected",
        "short",
        "Least over all pods, by connection: 1 while it is open; and whether the broker blocks publishing.",
        "1 for both, blocked 0.",
        "0: runbook, Disconnected. Blocked: mend the broker's memory or disk alarm.",
        (
            (f"min by (connection) ({own('broker_connected')})", "{{connection}}"),
            (f"max({own('broker_blocked')})", "blocked"),
        ),
        width=12,
        least=0,
        decimals=0,
    ),
    Panel(
        "Lost connections",
        "short",
        "Connections that were lost, and subscriptions that the broker ended.",
        "0, and a few when the broker restarts.",
        "A steady rate: network, heartbeats, or a queue that is deleted again and again.",
        (
            (f"sum by (connection) (increase({own('reconnects_total')}{RATE}))", "{{connection}}"),
            (f"sum(increase({own('broker_cancels_total')}{RATE}))", "subscription ended"),
        ),
        width=12,
    ),
)
PROCESS = (
    Panel(
        "Processor",
        "short",
        "Processor seconds a second, by pod.",
        "Below 1: a pod uses one core.",
        "Near 1: add pods, within the Registry's limit.",
        ((f"rate({process('cpu_seconds_total')}{RATE})", "{{instance}}"),),
        width=6,
    ),
    Panel(
        "Memory",
        "bytes",
        "Resident memory, by pod.",
        "Steady, well below resources.limits.memory.",
        "Growing without an end: a fault; report it with this panel.",
        ((process("resident_memory_bytes"), "{{instance}}"),),
        width=6,
    ),
    Panel(
        "Open files",
        "short",
        "File descriptors, by pod.",
        "At most registry.concurrency and a few dozen.",
        "Growing without an end: a fault; report it with this panel.",
        ((process("open_fds"), "{{instance}}"),),
        width=6,
    ),
    Panel(
        "Heartbeat",
        "s",
        "Time since the event loop of the slowest pod last ran.",
        "Below a second, plus the time between two scrapes.",
        "Above 15 seconds the liveness probe restarts the pod.",
        ((f"time() - min({own('loop_heartbeat_timestamp_seconds')})", "heartbeat"),),
        width=6,
    ),
    stat(
        "Token loaded",
        "s",
        (
            "Time since the oldest token in use was read.",
            "Since the last rotation, or since the start.",
            "Longer than since the rotation: the new token has not reached the file; see TokenRejected.",
        ),
        f"time() - min({own('token_loaded_timestamp_seconds')} > 0)",
        width=8,
    ),
    stat(
        "Token expires in",
        "s",
        (
            "Time until the first token expires; no data for tokens that do not say.",
            "Some minutes, renewed again and again, with access keys; no data with a token.",
            "Negative: the exchange of keys fails; the log says why.",
        ),
        f"min({own('token_expiry_timestamp_seconds')} > 0) - time()",
        width=8,
        steps=((None, "red"), (0, "green")),
    ),
    stat(
        "Lost log lines",
        "short",
        (
            "Log lines of the time range that could not be written to standard output.",
            "0.",
            "The disk behind the log is full, or the reader of the log has closed the pipe.",
        ),
        f"sum(increase({own('log_lines_lost_total')}[$__range]))",
        steps=RED_ABOVE_0,
        width=8,
    ),
)
