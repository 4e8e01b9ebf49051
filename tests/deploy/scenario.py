"""One scripted run of the real service through all that can happen to a journey, watched by Prometheus.

The service, RabbitMQ with its Prometheus plugin, the sandbox Registry and Prometheus are real; only their
settings are impatient. Each step ends when the service's own metrics say that it has happened.
"""

import contextlib
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from consumer.publishing import samples
from tests.broker import Broker
from tests.deploy.chart import Chart
from tests.deploy.prometheus import Prometheus
from tests.ledger import QUEUE, TOPOLOGY, Ledger
from tests.local_registry import TOKEN, LocalRegistry
from tests.proxy import Proxy
from tests.rabbit import RabbitNode, fresh_vhost
from tests.service import ServiceProcess
from tests.waiting import wait_until

NAMESPACE, RELEASE = "mobility", "proofs"
CLAIMLESS, SECOND_TOKEN = "claimless-token", "the-second-token"
EXCHANGE = "outcomes"
_PREFETCH = 8
_NEAREST = "journey_consumer_dead_letters_oldest_deadline_timestamp_seconds"
#: So low that a minute of trouble reaches them; what the alerts say is compared elsewhere.
VALUES = """
queue: {name: journeys}
monitoring:
  rules:
    enabled: true
    brokerMatchers: job="rabbitmq-detailed"
    thresholds:
      timeLeftWarningSeconds: 86400
      timeLeftCriticalSeconds: 86400
      minimumJourneysPerHour: 0
      deadLettersPerHour: 0
      deadLetterTimeLeftSeconds: 86400
      backlogMessages: 0
      stalledFor: 4s
"""


@dataclass(frozen=True, slots=True)
class Observed:
    """A run that is over: Prometheus, still there to be asked, and when the run was."""

    prometheus: Prometheus
    start: float
    end: float

    def values(self, expression: str) -> list[float]:
        """Every value that the expression had during the run, NaN left out."""
        found = self.prometheus.during(expression, self.start, self.end)
        numbers = (float(value) for series in found for _, value in series["values"])
        return [number for number in numbers if number == number]  # noqa: PLR0124 NaN is not itself


@contextlib.contextmanager
def observed(directory: Path, chart: Chart) -> Iterator[Observed]:
    """Run the script and lend what was observed."""
    rules = chart.one("PrometheusRule", "minimal", VALUES, release=RELEASE)["spec"]
    with contextlib.ExitStack() as stack:
        node = stack.enter_context(
            RabbitNode(plugins=("rabbitmq_prometheus",), conf={"collect_statistics_interval": 1000})
        )
        broker = stack.enter_context(fresh_vhost(node))
        proxy = stack.enter_context(Proxy("127.0.0.1", node.port))
        registry = stack.enter_context(LocalRegistry(terms="all", claimless=[CLAIMLESS]))
        token = directory / "token"
        token.write_text(TOKEN)
        settings = {
            "BROKER_URL": broker.url_at(proxy.port),
            "BROKER_QUEUE": QUEUE,
            "BROKER_PREFETCH": str(_PREFETCH),
            "REGISTRY_URL": registry.url,
            "REGISTRY_TOKEN_FILE": str(token),
            "REGISTRY_CONCURRENCY": str(_PREFETCH),
            "REGISTRY_RATE_PER_MINUTE": "1200",
            "REGISTRY_TIMEOUT_SECONDS": "1",
            "RETRY_MAX_ATTEMPTS": "4",
            "RETRY_ATTEMPTS_PER_VISIT": "2",
            "BREAKER_THRESHOLD": "3",
            "AUTH_PAUSE_AFTER": "3",
            "DEAD_LETTERS_LOOK_SECONDS": "1",
            "DEAD_LETTERS_RETURN_UNAUTHORIZED": "true",
            "EVENTS_EXCHANGE": EXCHANGE,
        }
        with broker.channel() as channel:
            channel.exchange_declare(EXCHANGE, "topic", durable=True, auto_delete=False)
            channel.queue_declare("outcomes", durable=True, auto_delete=False)
            channel.queue_bind("outcomes", EXCHANGE, "registered")
        service = stack.enter_context(ServiceProcess(directory, settings))
        prometheus = stack.enter_context(Prometheus(directory, _jobs(service.port, node), rules))
        start = time.time()
        script = _Script(service, broker, registry, token, prometheus)
        script.outcomes()
        script.full_queue()
        script.outages()
        script.token_trouble()
        script.broker_trouble(proxy)
        script.end()
        # Past the last scrape, so that a step of a second does not miss what was seen last.
        yield Observed(prometheus, start, time.time() + 2)


def _jobs(port: int, node: RabbitNode) -> list[dict[str, Any]]:
    rabbit = [{"targets": [f"127.0.0.1:{node.ports.prometheus}"]}]
    return [
        {
            "job_name": "journey-consumer",
            "static_configs": [
                {"targets": [f"127.0.0.1:{port}"], "labels": {"namespace": NAMESPACE, "release": RELEASE}}
            ],
        },
        {
            "job_name": "rabbitmq-detailed",
            "metrics_path": "/metrics/detailed",
            "params": {"family": ["queue_coarse_metrics", "queue_consumer_count"]},
            "static_configs": rabbit,
        },
        {
            "job_name": "rabbitmq-per-object",
            "metrics_path": "/metrics/per-object",
            "static_configs": rabbit,
        },
    ]


class _Script:
    def __init__(
        self,
        service: ServiceProcess,
        broker: Broker,
        registry: LocalRegistry,
        token: Path,
        prometheus: Prometheus,
    ) -> None:
        self._service = service
        self._broker = broker
        self._registry = registry
        self._token = token
        self._prometheus = prometheus
        self._ledger = Ledger(broker)
        service.await_ready()
        # A counter's rise is seen only when it was scraped before.
        self._seen("count_over_time(journey_consumer_build_info[1m]) > 1")

    # --- steps ---------------------------------------------------------------------------

    def outcomes(self) -> None:
        """Every final outcome that needs no pause, and the delayed retries."""
        ledger, faults = self._ledger, self._registry.faults
        journeys = ledger.journeys(40)
        ledger.publish(journeys)
        self._until("journeys_total", 40, outcome="registered")
        ledger.publish(journeys[:10])
        self._until("journeys_total", 10, outcome="already_registered")
        ledger.publish(ledger.invalid(2))
        self._until("journeys_total", 2, outcome="invalid")
        faults.for_next(1, terms_violation_labels=["too_many_trips_by_day"])
        ledger.publish(1)  # refused for good: it has no deadline any more
        self._until("journeys_total", 1, outcome="rejected")
        ledger.publish([_journey(ended=timedelta(hours=-30))])
        self._until("journeys_total", 1, outcome="expired")
        faults.apply({"error_rate": 1})
        ledger.publish(1)  # one bad journey is no outage: it is tried to the end
        self._until("journeys_total", 1, outcome="exhausted")
        faults.apply({"error_rate": 0})
        for fault in ({"timeout_408": True}, {"drop_connection": "before_answer"}, {"garbage": True}):
            faults.for_next(1, **fault)
            ledger.publish(1)
            ledger.await_settled()
        # It is not replayed by itself, so that a read finds it.
        self._seen(f'count({_NEAREST}{{reason=~"rejected|exhausted"}} > time()) == 1')
        for result in ("published", "unrouted"):
            self._seen(f'increase(journey_consumer_events_total{{result="{result}"}}[1m]) > 0')
        faults.for_next(1, throttle={"retry_after_seconds": 1})
        ledger.publish(4)
        self._until("registry_requests_total", 1, code="429")
        ledger.await_settled()

    def full_queue(self) -> None:
        """A dead-letter queue at its length limit, until the limit is lifted."""
        node, vhost, queue = self._broker.node, self._broker.vhost, TOPOLOGY.dead_letter_queue("invalid")
        limit = '{"max-length": 1, "overflow": "reject-publish"}'
        node.ctl("set_policy", "--vhost", vhost, "--apply-to", "queues", "full", f"^{queue}$", limit)
        self._ledger.publish(self._ledger.invalid(10))
        self._seen("rate(journey_consumer_dead_letters_refused_total[1m]) > 0")
        node.ctl("clear_policy", "--vhost", vhost, "full")
        self._ledger.await_settled()

    def outages(self) -> None:
        """The Registry down, then unknown at this address; journeys wait meanwhile."""
        for fault, cause in (("maintenance", "unavailable"), ("not_found", "misconfigured")):
            self._registry.faults.apply({fault: True})
            self._ledger.publish(10)
            self._until("paused", 1, cause=cause)
            self._seen(f'journey_consumer_breaker_state{{cause="{cause}"}} > 0')
            # Its rule evaluates every 15 seconds only, and journeys wait for less than that elsewhere.
            self._seen('ALERTS{alertname="JourneysDeadlineAtRisk"}')
            self._registry.faults.apply({fault: False})
            self._until("paused", 0, cause=cause)
            self._ledger.await_settled()

    def token_trouble(self) -> None:
        """A revoked token, one that may not register, and a good one again."""
        self._registry.revoke(TOKEN)
        self._ledger.publish(6)
        self._until("paused", 1, cause="unauthorized")
        self._seen("journey_consumer_token_accepted == 0")
        self._seen(f'{_NEAREST}{{reason="unauthorized"}} > time()')
        self._registry.accept(SECOND_TOKEN)
        self._token.write_text(SECOND_TOKEN)
        self._until("paused", 0, cause="unauthorized")
        self._seen('increase(journey_consumer_replays_total{outcome="registered"}[1m]) > 0')
        refused = TOPOLOGY.dead_letter_queue("unauthorized")
        wait_until(lambda: self._broker.depth(refused).total == 0, 20, "all have returned")
        self._ledger.await_settled()
        written = time.time()
        self._token.write_text(CLAIMLESS)
        self._until("token_loaded_timestamp_seconds", written)
        self._ledger.publish(6)
        self._until("paused", 1, cause="forbidden")
        self._seen('journey_consumer_paused{cause="forbidden"} == 1')
        self._token.write_text(SECOND_TOKEN)
        self._until("paused", 0, cause="forbidden")
        self._ledger.await_settled()

    def broker_trouble(self, proxy: Proxy) -> None:
        """Connections lost with journeys in hand; then every slot taken by journeys that have not ended."""
        self._registry.faults.apply({"latency_seconds": 0.5})
        self._ledger.publish(20)
        wait_until(lambda: self._service.value("in_flight") > 0, 10, "journeys are in flight")
        proxy.refuse()
        proxy.cut()
        self._seen("journey_consumer_broker_connected == 0")
        proxy.refuse(on=False)
        self._service.await_ready()
        self._registry.faults.apply({"latency_seconds": 0})
        self._ledger.await_settled()
        self._ledger.publish([_journey(ended=timedelta(seconds=12)) for _ in range(_PREFETCH)])
        wait_until(lambda: self._service.value("held") >= _PREFETCH, 10, "every slot is taken")
        self._ledger.publish(3)
        self._seen('ALERTS{alertname="JourneysStalled"}')
        self._ledger.await_settled()

    def end(self) -> None:
        """No consumer, and a queue that grows."""
        assert self._service.terminate() == 0
        self._ledger.publish(100)
        for alert in ("JourneysConsumerAbsent", "JourneysQueueHasNoConsumers", "JourneysQueueGrowing"):
            self._seen(f'ALERTS{{alertname="{alert}"}}')

    # --- waiting ---------------------------------------------------------------------------

    def _until(self, metric: str, value: float, **labels: str) -> None:
        if value:
            wait_until(
                lambda: self._service.value(metric, **labels) >= value,
                20,
                f"{metric} {labels} reaches {value}",
            )
        else:
            wait_until(lambda: self._service.value(metric, **labels) == 0, 20, f"{metric} {labels} is 0")

    def _seen(self, expression: str) -> None:
        """Wait until Prometheus has seen it: what it has not scraped no query can return."""
        wait_until(lambda: self._prometheus.now(expression), 45, f"{expression} is seen", interval=0.2)


def _instant(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _journey(*, ended: timedelta) -> tuple[str, bytes]:
    """A journey of an hour that ended, or ends, that far from now."""
    payload = samples.journey("v2", random.SystemRandom(), datetime.now(UTC))
    end = datetime.now(UTC) + ended
    for person in ("driver", "passenger"):
        payload[person]["start"]["datetime"] = _instant(end - timedelta(hours=1))
        payload[person]["end"]["datetime"] = _instant(end)
    return samples.journey_id(payload), json.dumps(payload).encode()
