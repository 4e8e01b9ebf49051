"""What kombu's other transports cannot promise, in words for the log and for ``check``."""

from urllib.parse import urlsplit

_COMMON = (
    "no publisher confirms and no delay queues: a retry waits in this process, unacknowledged, "
    "and returns to the end of the queue; a message that kills the process is not dead-lettered by the broker"
)
_PROMISES = {
    "memory": "everything is lost when the process ends: for demonstrations and tests only",
    "filesystem": "a message taken but not acknowledged is lost when the process is killed",
    "sqla": "a message taken but not acknowledged is lost when the process is killed",
    "sqlalchemy": "a message taken but not acknowledged is lost when the process is killed",
    "redis": "a message can be lost between being taken and being noted as unacknowledged, "
    "and is delivered twice when held longer than visibility_timeout",
    "sqs": "a message is delivered twice when held longer than its visibility timeout",
}


def transport_limits(url: str) -> str:
    """What the transport of ``url`` cannot promise, in one sentence."""
    scheme = urlsplit(url).scheme
    family = {"rediss": "redis"}.get(scheme, scheme.split("+")[0])
    return f"{_PROMISES.get(family, 'untested transport')}; {_COMMON}"
