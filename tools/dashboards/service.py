"""The dashboard of the service: rows follow the data, from health through the Registry to the process."""

from tools.dashboards.grafana import (
    DEAD_LETTER_QUEUES,
    DELAY_QUEUES,
    IN_TIME,
    IN_TIME_RATIO,
    MAIN_QUEUE,
    RATE,
    RED_ABOVE_0,
    TIME_LEFT,
    TIME_LEFT_QUERY,
    Dashboard,
    Limit,
    Panel,
    broker,
    own,
    process,
    quantiles,
    stat,
)

_FAILED = own("registry_requests_total", 'code!~"200|201|2xx|400|409|413|422"')

_HEALTH = (
    stat(
        "Time left",
        "s",
        (
            "Time until the oldest journey in flight is 24 hours old.",
            "More than half a day, or no data: nothing is in flight.",
            "Runbook, DeadlineAtRisk: find the cause of the delay: token, Registry, broker.",
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
            "Runbook, ErrorBudgetBurn: the row of dead letters shows the reasons.",
        ),
        IN_TIME_RATIO,
        steps=IN_TIME,
        decimals=3,
    ),
    stat(
        "Token",
        "bool_yes_no",
        (
            "Whether the Registry accepted the token at the last use of every pod.",
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
            "Pods that Prometheus scrapes, by version.",
            "As many as are deployed, of one version except during a roll-out.",
            "Runbook, ConsumerAbsent: kubectl get pods shows why they do not start.",
        ),
        f"count by (version) ({own('build_info')})",
        legend="{{version}}",
        steps=((None, "red"), (1, "green")),
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
    ),
    stat(
        "Since the last success",
        "s",
        (
            "Time since a journey was last registered or found registered.",
            "Short while journeys arrive; long without traffic.",
            "With messages waiting: runbook, Stalled, TokenRejected or RegistryUnavailable.",
        ),
        f"time() - max({own('last_success_timestamp_seconds')} > 0)",
    ),
)
_CONSUMPTION = (
    Panel(
        "Deliveries and outcomes",
        "ops",
        "Messages received per second, and their outcomes, counted after settlement.",
        "registered follows deliveries; other outcomes are rare.",
        "Deliveries without outcomes: the Registry is slow, or consumption is paused.",
        (
            (f"sum(rate({own('deliveries_total')}{RATE}))", "delivered"),
            (f"sum by (outcome) (rate({own('journeys_total')}{RATE}))", "{{outcome}}"),
            (f"sum by (kind) (rate({own('returned_total')}{RATE}))", "{{kind}}"),
        ),
        width=12,
    ),
    Panel(
        "In flight",
        "short",
        "Deliveries in all pods: in flight, of them held (for a pause, a retry or the journey's end), and "
        "the prefetch.",
        "in flight well below prefetch; held near 0.",
        "In flight at the prefetch for long: the Registry is slow. Prefetch 0: paused.",
        (
            (f"sum({own('in_flight')})", "in flight"),
            (f"sum({own('held')})", "held"),
            (f"sum({own('prefetch')})", "prefetch"),
        ),
        width=12,
    ),
    Panel(
        "Redeliveries",
        "ops",
        "Messages that the broker had delivered before.",
        "0, and a few after a restart or a lost connection.",
        "A steady rate: connections keep breaking; see lost connections.",
        ((f"sum(rate({own('redelivered_total')}{RATE}))", "redelivered"),),
    ),
    Panel(
        "Time from delivery to settlement",
        "s",
        "Time that a delivery is in flight.",
        "Slightly above the Registry's response time; minutes with retries.",
        "Compare with the Registry's response time: the rest is waiting.",
        quantiles("settlement_duration_seconds"),
    ),
    Panel(
        "Since the last delivery",
        "s",
        "Time since the broker last delivered a message to any pod.",
        "Short while messages wait in the queue.",
        "Runbook, Stalled, when messages wait.",
        ((f"time() - max({own('last_delivery_timestamp_seconds')} > 0)", "since the last delivery"),),
    ),
)
_REGISTRY = (
    Panel(
        "Answers",
        "reqps",
        "Submissions per second by status or kind of fault.",
        "200, 201 and 409.",
        "401: token. 404: address or version. 429: limit. 5xx, timeout, connect: Registry or network.",
        ((f"sum by (code) (rate({own('registry_requests_total')}{RATE})) > 0", "{{code}}"),),
    ),
    Panel(
        "Failures",
        "percentunit",
        "Share of submissions without success (200, 201, 409) or a refusal of the payload.",
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
        "Response time",
        "s",
        "Time from sending a journey to its answer or fault.",
        "Tens to hundreds of milliseconds.",
        "Near registry.timeoutSeconds: the Registry is overloaded, or a proxy delays requests.",
        quantiles("registry_request_duration_seconds"),
    ),
    Panel(
        "Retries in the pod, by reason",
        "ops",
        "Retries in the pod, by the reason of the failure before.",
        "A burst when the Registry restarts.",
        "A steady rate is an outage or a bad network: see the answers.",
        ((f"sum by (reason) (rate({own('retries_total')}{RATE})) > 0", "{{reason}}"),),
    ),
)
_DEADLINE = (
    Panel(
        "Time left of the oldest journey in flight",
        "s",
        "Time until the oldest journey in flight is 24 hours old. Journeys in the queue or in a delay queue "
        "count when they are delivered, in a pause those that went back to a queue as well.",
        "Above both lines; no data while nothing is in flight.",
        "Runbook, DeadlineAtRisk.",
        ((TIME_LEFT_QUERY, "time left"),),
        width=12,
        steps=TIME_LEFT,
    ),
    Panel(
        "Age at registration",
        "s",
        "Time from a journey's start to its registration; the Registry accepts 24 hours.",
        "Hours at most: the ride itself, and the delay of the operator's own systems.",
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
            "Each is a lost proof. Runbook, DeadlineMissed.",
        ),
        f"sum(increase({own('deadline_missed_total')}[$__range]))",
        steps=RED_ABOVE_0,
        height=8,
    ),
)
_DEAD_LETTERS = (
    Panel(
        "Dead letters of the last hour, by reason",
        "short",
        "Journeys dead-lettered within the hour before.",
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
        "Runbook, DeadLetterQueueNotEmpty: fix the cause, then replay them before their 24 hours are over.",
        ((f"max by (queue) ({broker('queue_messages', DEAD_LETTER_QUEUES)})", "{{queue}}"),),
        steps=((None, "green"), (Limit("deadLettersWaiting", plus=1), "red")),
    ),
    Panel(
        "Failed publishes",
        "short",
        "Publishes of dead letters, delayed and republished deliveries that the broker did not confirm (each "
        "is retried), and those that wait for a confirm now.",
        "0.",
        "returned: a queue is missing, run `journey-consumer declare`. nacked: a queue is full. timeout, "
        "connection: the broker. For dead letters see the runbook, DeadLetterRefused.",
        (
            (f"sum by (kind) (increase({own('publish_failures_total')}{RATE}))", "{{kind}}"),
            (
                f"sum by (reason, cause) (increase({own('dead_letters_refused_total')}{RATE})) > 0",
                "dead letter {{reason}}: {{cause}}",
            ),
            (f"sum({own('publishes_unconfirmed')})", "unconfirmed"),
        ),
    ),
    Panel(
        "Nearest deadline among dead letters, by reason",
        "s",
        "Time until the first dead letter of a reason is too old to be registered, as of the last read: "
        "every five minutes, the first 1,000 of each queue.",
        "No data: no dead letters.",
        "Runbook, DeadLetterDeadlineNear: fix the cause and replay, earliest deadline first; below 0 it is "
        "too late for that one.",
        (
            (
                f"min by (reason) ({own('dead_letters_oldest_deadline_timestamp_seconds')} > 0) - time()",
                "{{reason}}",
            ),
        ),
        steps=((None, "red"), (Limit("deadLetterTimeLeftSeconds"), "green")),
    ),
    Panel(
        "Replayed, by outcome",
        "short",
        "Final outcomes of replayed dead letters, replayed by command or by the service.",
        "0; after a replay registered and already_registered.",
        "Others are dead letters again: stop, and fix the cause that `dead-letters summary` shows.",
        ((f"sum by (outcome) (increase({own('replays_total')}{RATE}))", "{{outcome}}"),),
    ),
    Panel(
        "Outcome events, by result",
        "short",
        "Events about final outcomes; 0 where events.exchange is not set.",
        "published only.",
        "unrouted: bind a queue for that outcome if it is needed. dropped: create the exchange, or find out "
        "why the broker does not confirm.",
        ((f"sum by (result) (increase({own('events_total')}{RATE}))", "{{result}}"),),
    ),
)
_LIMITS = (
    Panel(
        "Waiting for the rate limiter",
        "s",
        "Seconds that submissions waited for the rate limiter, per second.",
        "0, except while a backlog is processed.",
        "For long: more journeys arrive than the limit allows; see docs/capacity.md.",
        ((f"sum(rate({own('limiter_wait_seconds_total')}{RATE}))", "waited"),),
        width=6,
    ),
    Panel(
        "Remaining requests of the Registry's limit",
        "short",
        "Requests left in the Registry's current window, from its last answer.",
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
        "unauthorized, forbidden, misconfigured: action is required. unavailable: it closes by itself.",
        ((f"max by (cause) ({own('breaker_state')})", "{{cause}}"),),
        width=6,
        least=0,
        most=2,
        decimals=0,
    ),
    Panel(
        "Breaker transitions",
        "short",
        "Changes of a breaker's state, by cause and new state.",
        "0.",
        "Opens and closes often: the Registry is at its limit.",
        (
            (
                f"sum by (cause, to) (increase({own('breaker_transitions_total')}{RATE})) > 0",
                "{{cause}} {{to}}",
            ),
        ),
        width=6,
    ),
)
_BROKER = (
    Panel(
        "Messages in the queue",
        "short",
        "Messages that are ready in the queue, and those that are unacknowledged.",
        "Near 0; a backlog after a pause, falling.",
        "Runbook, QueueGrowing; docs/capacity.md says how long a backlog takes.",
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
        "Journeys that wait for their next delayed retry.",
        "0.",
        "The Registry fails for some journeys: see the answers.",
        ((f"max by (queue) ({broker('queue_messages', DELAY_QUEUES)})", "{{queue}}"),),
    ),
    Panel(
        "Connected",
        "short",
        "Minimum over all pods, by connection: 1 while it is open; and whether the broker blocks publishing.",
        "1 for both, blocked 0.",
        "0: runbook, Disconnected. Blocked: clear the broker's memory or disk alarm.",
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
        "Connections that were lost, and consumers that the broker cancelled.",
        "0, and a few when the broker restarts.",
        "A steady rate: network, heartbeats, or a queue that is deleted repeatedly.",
        (
            (f"sum by (connection) (increase({own('reconnects_total')}{RATE}))", "{{connection}}"),
            (f"sum(increase({own('broker_cancels_total')}{RATE}))", "consumer cancelled"),
        ),
        width=12,
    ),
)
_PROCESS = (
    Panel(
        "CPU",
        "short",
        "CPU seconds per second, by pod.",
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
        "Growing without bound: a bug; report it with this panel.",
        ((process("resident_memory_bytes"), "{{instance}}"),),
        width=6,
    ),
    Panel(
        "Open files",
        "short",
        "File descriptors, by pod.",
        "At most registry.concurrency and a few dozen.",
        "Growing without bound: a bug; report it with this panel.",
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
            "Time until the first token expires; no data for tokens of unknown expiry.",
            "Some minutes with access keys, which are exchanged repeatedly; no data with a token.",
            "Negative: the key exchange fails; see the log.",
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
SERVICE = Dashboard(
    uid="journey-consumer-service",
    title="Journey consumer: service",
    description="What the consumer does, and what it waits for. docs/runbook.md says what to do.",
    since="now-6h",
    refresh="30s",
    rows=(
        ("Health", _HEALTH),
        ("Consumption", _CONSUMPTION),
        ("Registry", _REGISTRY),
        ("Deadline", _DEADLINE),
        ("Dead letters", _DEAD_LETTERS),
        ("Limiter and breakers", _LIMITS),
        ("Broker", _BROKER),
        ("Process and token", _PROCESS),
    ),
)
