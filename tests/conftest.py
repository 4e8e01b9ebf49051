"""Fixtures for all tests."""

import pytest

from tests.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    """A clock that moves only when the test says so."""
    return FakeClock()
