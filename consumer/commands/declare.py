"""Declare the queues that are missing, then end: for deployments whose service user may not declare.

Run it with a user that may (BROKER_URL) and the same BROKER_ and RETRY_ settings as the service, which then
runs with BROKER_DECLARE=false. Existing queues are used as they are; no message is touched.
Exit code 0: everything exists now; 1: the broker refuses or cannot be reached.
"""

import argparse
import os
from typing import Any

from consumer.app import build_topology
from consumer.broker.connection import ConnectionFactory, build_connections, is_amqp
from consumer.broker.declare import ensure
from consumer.broker.inspect import why
from consumer.config import Settings, load
from consumer.errors import BrokerError, ConfigurationError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: BROKER_URL=amqps://admin:...@rabbitmq/vhost journey-consumer declare"


def run(_args: argparse.Namespace) -> int:
    """Declare, and print one line for each queue and exchange that was created."""
    settings = load(os.environ, authentication=False)
    if not is_amqp(settings.broker_urls[0]):
        raise ConfigurationError(["BROKER_URL must be amqp:// or amqps:// to declare queues"])
    connection = _connect(settings)
    try:
        created = ensure(connection, build_topology(settings), declare=True)
    except ConnectionFactory.ERRORS as error:
        raise BrokerError(why(error)) from None
    finally:
        connection.collect()
    for name in created:
        print(f"declared {name}")  # noqa: T201
    print(f"{len(created)} declared; everything exists")  # noqa: T201
    return 0


def _connect(settings: Settings) -> Any:
    """Connect to the first address that answers."""
    connections, problems = build_connections(settings), []
    for shown in settings.broker_addresses:
        try:
            return connections.connect("declare")
        except ConnectionFactory.ERRORS as error:
            problems.append(f"{shown} cannot be used: {why(error)}")
    raise BrokerError("; ".join(problems))
