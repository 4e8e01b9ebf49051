"""Declare the queues that are missing, then end: for deployments whose service user may not declare.

Run it with a user that may (BROKER_URL) and the same BROKER_ and RETRY_ settings as the service, which then
runs with BROKER_DECLARE=false. Existing queues are used as they are; no message is touched.
Exit code 0: everything exists now; 1: the broker refuses or cannot be reached.
"""

import argparse
import os

from consumer.app import build_topology
from consumer.broker.connection import is_amqp
from consumer.broker.declare import ensure
from consumer.commands.cli import load_settings
from consumer.config import TOPOLOGY
from consumer.errors import ConfigurationError
from consumer.publishing.publish import at_first_broker


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: BROKER_URL=amqps://admin:...@rabbitmq/vhost journey-consumer declare"


def run(_args: argparse.Namespace) -> int:
    """Declare, and print one line for each queue and exchange that was created."""
    settings = load_settings(os.environ, TOPOLOGY)
    if not is_amqp(settings.broker_urls[0]):
        raise ConfigurationError(["BROKER_URL must be amqp:// or amqps:// to declare queues"])
    topology = build_topology(settings)
    _, created = at_first_broker(
        settings, "declare", lambda connection, _shown: ensure(connection, topology, declare=True)
    )
    for name in created:
        print(f"declared {name}")  # noqa: T201
    print(f"{len(created)} declared; everything exists")  # noqa: T201
    return 0
