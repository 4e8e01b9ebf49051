"""What the assembly makes of settings that go together in unusual ways."""

from consumer.assembly import breakers_of
from consumer.config import load


def test_any_probe_time_and_cap_can_be_assembled() -> None:
    """A cap below the time between probes of a refused token is no reason not to start."""
    settings = load({"REGISTRY_TOKEN": "t", "AUTH_PROBE_SECONDS": "60", "BREAKER_PROBE_CAP_SECONDS": "10"})
    assert len(breakers_of(settings)) == 4
