"""Run the service: consume journeys from the queue, register them, settle every delivery.

Settings come from the environment, or from files of the same names in a secrets directory.
SIGTERM drains and exits with code 0; a second signal ends the process at once. Exit code 2: wrong settings.
"""

import argparse
import asyncio
import gc
import io
import logging
import os
import sys

from prometheus_client import CollectorRegistry

from consumer import __version__, logs
from consumer.app import assemble
from consumer.broker.connection import is_amqp
from consumer.broker.virtual import transport_limits
from consumer.config import Settings, load, settings_reference
from consumer.metrics import Metrics
from consumer.service.http import HttpServer

log = logging.getLogger("journey_consumer.run")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the settings to the help; the command has no arguments."""
    parser.epilog = settings_reference()


def run(_args: argparse.Namespace) -> int:
    settings = load(os.environ)
    output = logs.Output(io.FileIO(sys.stdout.fileno(), "w", closefd=False))
    logs.configure(output, level=settings.log_level, log_format=settings.log_format)
    log.info("starting", extra={"version": __version__, **settings.summary()})
    for sentence in settings.warnings:
        log.warning(sentence)
    if not is_amqp(settings.broker_urls[0]):
        log.warning(
            "broker transport with weaker guarantees",
            extra={"reason": transport_limits(settings.broker_urls[0])},
        )
    # What is loaded by now lives as long as the process: keep the collector from walking it, and from
    # searching after every 700 objects for cycles that a journey hardly makes.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    _new_loop_runner().run(_serve(settings, output))
    return 0


def _new_loop_runner() -> asyncio.Runner:
    try:
        import uvloop  # noqa: PLC0415 not on every platform
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


async def _serve(settings: Settings, output: logs.Output) -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    assembled = assemble(settings, metrics, output)
    http_server = HttpServer(
        registry=registry, health=assembled.health, host=settings.http_host, port=settings.http_port
    )
    http_server.start()
    try:
        assembled.service.handle_signals()
        await assembled.service.run()
    finally:
        http_server.stop()
