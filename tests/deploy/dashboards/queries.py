"""What several panels ask, in one place: the ratio that is promised, the time left, how a number is shown."""

from tests.deploy.dashboards.grafana import Limit, Panel, Step, own

RATE = "[$__rate_interval]"
RED_ABOVE_0: tuple[Step, ...] = ((None, "green"), (1, "red"))
TIME_LEFT: tuple[Step, ...] = (
    (None, "red"),
    (Limit("timeLeftCriticalSeconds"), "orange"),
    (Limit("timeLeftWarningSeconds"), "green"),
)
IN_TIME: tuple[Step, ...] = ((None, "red"), (Limit("objective"), "green"))
_LOST = own("journeys_total", 'outcome=~"unauthorized|forbidden|expired|exhausted"')
_ENTITLED = own("journeys_total", 'outcome!~"invalid|rejected"')
_REGISTERED = own("journey_age_at_registration_seconds_count")
_REGISTERED_IN_TIME = own("journey_age_at_registration_seconds_bucket", 'le="86400.0"')
#: The same ratio as the error budget's alerts: what was not lost and not late, of what could be registered.
IN_TIME_RATIO = (
    f"1 - (sum(increase({_LOST}[$__range])) + sum(increase({_REGISTERED}[$__range]))"
    f" - sum(increase({_REGISTERED_IN_TIME}[$__range])))"
    f" / (sum(increase({_ENTITLED}[$__range])) > 0)"
)
TIME_LEFT_QUERY = f"86400 - (time() - min({own('oldest_pending_start_timestamp_seconds')} > 0))"


def quantiles(metric: str) -> tuple[tuple[str, str], ...]:
    """The median, the 95th and the 99th percentile of a histogram."""
    buckets = f"sum by (le) (rate({own(metric + '_bucket')}{RATE}))"
    return tuple((f"histogram_quantile({q}, {buckets})", f"p{q * 100:g}") for q in (0.5, 0.95, 0.99))


def stat(title: str, unit: str, words: tuple[str, str, str], query: str, **more: object) -> Panel:
    """One number; ``words`` are its meaning, what is normal and what to do otherwise."""
    legend = str(more.pop("legend", ""))
    size = {"kind": "stat", "width": 4, "height": 4} | more
    return Panel(title, unit, *words, ((query, legend),), **size)  # type: ignore[arg-type]
