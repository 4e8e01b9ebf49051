"""What can stop the process or a command.

    ConsumerError
    ├── ConfigurationError   a setting is missing or wrong (exit code 2)
    ├── BrokerError          the broker refuses something that waiting cannot mend
    └── PublishError         a publish was not confirmed; nothing may be acknowledged

The fate of a single journey is never an exception: see ``consumer.core.outcome``.
No message of these errors may hold a value of a payload, a token or a password.
"""

from enum import StrEnum


class PublishFailure(StrEnum):
    """Why a publish was not confirmed."""

    RETURNED = "returned"
    NACKED = "nacked"
    CONNECTION = "connection"
    TIMEOUT = "timeout"
    UNENCODABLE = "unencodable"
    CLOSED = "closed"
    OUT_OF_DATE = "out_of_date"


class ConsumerError(Exception):
    """Root of this program's own errors."""


class ConfigurationError(ConsumerError):
    """One or more settings are unusable; ``problems`` holds one sentence for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class BrokerError(ConsumerError):
    """The broker refuses (permissions, a queue that must exist, incompatible arguments)."""


class PublishError(ConsumerError):
    """A publish ended without the broker's confirm."""

    def __init__(self, kind: str) -> None:
        super().__init__(str(kind))
        self.kind = kind
