"""Fixtures of the tests of what is deployed."""

import pytest

from tests.deploy.chart import Chart


@pytest.fixture(scope="session")
def chart() -> Chart:
    """The chart; renderings are remembered."""
    return Chart()
