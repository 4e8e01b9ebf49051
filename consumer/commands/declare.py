"""Declare the queues that are missing, then end; for deployments whose service user may not.

Run once with a user that may (BROKER_URL) and the same BROKER_ and RETRY_ settings as the service, which then
runs with BROKER_DECLARE=false. What exists is used as it is, whatever its arguments; no message is touched.
Exit code 0: everything is there now; 1: the broker refuses or can not be reached.
"""

import argparse
import os
from typing import Any

from consumer.app import build_topology
from consumer.broker import inspect
from consumer.broker.connection import ConnectionFactory, is_amqp
from consumer.broker.declare import ensure
from consumer.config import Settings, load
from consumer.errors import BrokerError, ConfigurationError


def configure(parser: argparse.ArgumentParser) -> None:
    """Take no arguments."""
    parser.epilog = "example: BROKER_URL=amqps://admin:...@rabbitmq/vhost journey-consumer declare"


def run(_args: argparse.Namespace) -> int:
    """Declare, and print one line for each queue and exchange that was missing."""
    settings = load(os.environ, authentication=False)
    if not is_amqp(settings.broker_urls[0]):
        raise ConfigurationError(["BROKER_URL must be amqp:// or amqps://: other brokers declare nothing"])
    connection = _connect(settings)
    try:
        created = ensure(connection, build_topology(settings), declare=True)
    except ConnectionFactory.ERRORS as error:
        raise BrokerError(inspect.why(error)) from None
    finally:
        connection.collect()
    for name in created:
        print(f"declared {name}")  # noqa: T201
    print(f"{len(created)} declared; everything is there")  # noqa: T201
    return 0


def _connect(settings: Settings) -> Any:
    """Connect to the first address that answers."""
    ca_file = str(settings.broker_ca_file) if settings.broker_ca_file else None
    problems = []
    for url, shown in zip(settings.broker_urls, settings.broker_addresses, strict=True):
        connections = ConnectionFactory(
            [url], heartbeat_seconds=settings.broker_heartbeat_seconds, ca_file=ca_file
        )
        try:
            return connections.connect_to_broker("declare")
        except ConnectionFactory.ERRORS as error:
            problems.append(f"{shown} can not be used: {inspect.why(error)}")
    raise BrokerError("; ".join(problems))
