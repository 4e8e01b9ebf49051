"""Everything that can be known before the service starts, as findings; nothing is changed by looking.

``broker`` and ``registry`` ask the two neighbours, ``local`` looks at this machine. None prints
anything, and no finding holds a password, a token or a key.
"""

from consumer.checks.broker import check_broker
from consumer.checks.finding import Finding, Level
from consumer.checks.local import check_configuration, check_credentials, check_http_port
from consumer.checks.registry import check_registry

__all__ = [
    "Finding",
    "Level",
    "check_broker",
    "check_configuration",
    "check_credentials",
    "check_http_port",
    "check_registry",
]
