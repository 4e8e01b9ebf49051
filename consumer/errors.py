"""What can stop the process or a command.

    ConsumerError
    ├── ConfigurationError   a setting is missing or wrong (exit code 2)
    ├── BrokerError          the broker refuses something that waiting cannot mend
    └── PublishError         a publish was not confirmed; nothing may be acknowledged

The fate of a single journey is never an exception: see ``consumer.core.outcome``.
No message of these errors may hold a value of a payload, a token or a password.
"""


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
    """A publish ended without the broker's confirm: nacked, returned or connection lost."""
