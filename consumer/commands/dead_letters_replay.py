"""``dead-letters replay``: which ones, and where to; how it runs is in ``dead_letters_run``."""

import argparse
import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from consumer.app import RATE_LIMITER_BURST, build_registry_client, build_token_source
from consumer.commands.dead_letters_run import (
    act_on,
    add_common,
    dry_run,
    positive,
    taps,
    utc_now,
    version_of,
)
from consumer.config import Settings
from consumer.core.delivery import Delivery
from consumer.core.rate_limiter import RateLimiter
from consumer.deadletters.direct import DONE, SubmitToRegistry, batch_size
from consumer.deadletters.record import Record
from consumer.deadletters.replay import REPLAYED, ReplayToQueue
from consumer.deadletters.selection import Selection
from consumer.deadletters.sweep import Sweep
from consumer.deadletters.underway import Act
from consumer.publishing.publish import Target, connect

MOST_REPLAYS = 5


def configure(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Add it; ``command`` makes a parser with the filters."""
    again = command("replay", "send them again, the nearest deadline first; each is confirmed, then removed")
    again.add_argument(
        "--to", choices=["queue", "registry"], default="queue", help="the main queue, or straight"
    )
    again.add_argument("--lost", action="store_true", help="also those beyond saving")
    again.add_argument(
        "--max-replays", type=positive, default=MOST_REPLAYS, metavar="N",
        help="leave out what was replayed so often already (default: %(default)s)",
    )  # fmt: skip
    add_common(again)
    again.set_defaults(action=_replay)


def _replay(args: argparse.Namespace, settings: Settings, selection: Selection) -> int:
    now = utc_now()

    def skip(record: Record, _delivery: Delivery) -> str | None:
        if record.replays >= args.max_replays:
            return f"replayed {args.max_replays} times already (--max-replays)"
        return "beyond saving (--lost sends them too)" if not args.lost and record.is_lost(now) else None

    sweep = Sweep(taps(args, settings, selection), selection, now=utc_now, skip=skip)
    if args.dry_run:
        return dry_run(args, sweep)
    batch = None
    if args.to == "registry":
        batch = batch_size(settings.registry_rate_per_minute, settings.registry_concurrency)
    code = asyncio.run(act_on(args, sweep, "replaying", lambda: _replayer(args, settings), batch=batch))
    return code or (0 if sweep.tally.outcomes.keys() <= {REPLAYED, *DONE} else 1)


@asynccontextmanager
async def _replayer(args: argparse.Namespace, settings: Settings) -> AsyncIterator[Act]:
    if args.to == "queue":
        publisher = await connect(settings, Target("", settings.broker_queue))
        try:
            patience = settings.broker_confirm_timeout_seconds
            yield ReplayToQueue(publisher, settings.broker_queue, patience_seconds=patience)
        finally:
            await publisher.close()
        return
    registry = build_registry_client(settings)
    tokens = build_token_source(settings, registry)
    try:
        yield SubmitToRegistry(
            registry=registry,
            tokens=tokens,
            rate_limiter=RateLimiter(settings.registry_rate_per_minute, RATE_LIMITER_BURST),
            version=version_of(settings),
            concurrency=settings.registry_concurrency,
            utc_now=utc_now,
        )
    finally:
        await tokens.aclose()
        await registry.aclose()
