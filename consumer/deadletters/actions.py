"""What a sweep does with a batch: replay to a queue, submit to the Registry, discard.

1. Until its copy is confirmed, the Registry has it, or its audit line is on the disk, a dead letter is not
   acknowledged. What was confirmed and not acknowledged is sent twice, which the Registry answers with 409.
2. A replayed copy has the original body, properties and headers; the headers about its death are removed, and
   ``x-replays`` counts one more.
3. An invalid payload is never submitted: for an id that was accepted it could destroy the proof.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import schemas
from consumer.core import outcome as outcomes
from consumer.core.delivery import Delivery
from consumer.core.headers import replay_headers, tracking_headers
from consumer.core.outcome import Outcome
from consumer.core.outgoing import Outgoing, bare, copy_of
from consumer.core.parse import parse
from consumer.core.protocols import Publisher
from consumer.core.rate_limiter import RateLimiter
from consumer.deadletters.audit import DurableJsonlFile, archive_line, audit_line
from consumer.deadletters.sweep import BATCH, BatchResult, DeadLetterMessage, Result
from consumer.errors import PublishError, PublishFailure
from consumer.registry.submit import NO_STATUS_ROUTE, Submission

if TYPE_CHECKING:
    from consumer.core.mapping import EventMapping

REPLAYED = "replayed"
NOT_CONFIRMED = "not confirmed"
DISCARDED = "discarded"
#: What was replayed so often is left to an operator.
MOST_REPLAYS = 5
#: A 409 whose status could not be asked now: it may hide a refusal, so that the dead letter stays.
UNVERIFIED = "unverified"
#: The outcomes after which the Registry has the journey, as far as v2, without a status route, can tell.
IN_REGISTRY = frozenset({"registered", "already registered", "already registered (unverified)"})
#: So many in a row say that the journey is not the cause.
MOST_FAILURES_IN_A_ROW = 10
#: A longer wait ends the command: dead letters are held meanwhile.
MOST_WAIT_SECONDS = 90.0
_TRIES = 3
_POLL_SECONDS = 0.5
_CONCERNS_ALL = (outcomes.Unauthorized, outcomes.Forbidden, outcomes.Unavailable, outcomes.Throttled)


# --- to the main queue ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReplayToQueue:
    """Publishes dead letters to ``queue``.

    ``patience_seconds`` is how long a broker that blocks publishers is waited for.
    """

    publisher: Publisher
    queue: str
    patience_seconds: float = math.inf

    async def __call__(self, batch: Sequence[DeadLetterMessage]) -> BatchResult:
        return await self.publish([self.copy(dead.delivery) for dead in batch], REPLAYED)

    def copy(self, delivery: Delivery) -> Outgoing:
        """The message to publish so that ``delivery`` begins again in the queue."""
        headers = replay_headers(delivery, tracking_headers(delivery))
        return copy_of(delivery, exchange="", routing_key=self.queue, headers=headers)

    async def publish(self, messages: Sequence[Outgoing], outcome: str) -> BatchResult:
        """Publish all of them, many in flight; what is confirmed has ``outcome``, what is not stays.

        A message whose headers, with ours, exceed a frame is published with its small headers only.
        """
        failures = await self._publish_each(messages)
        too_large = [index for index, failure in enumerate(failures) if failure == PublishFailure.UNENCODABLE]
        second = await self._publish_each([bare(messages[index]) for index in too_large])
        for index, failure in zip(too_large, second, strict=True):
            failures[index] = failure
        results = [Result(NOT_CONFIRMED if failure else outcome, ack=not failure) for failure in failures]
        failed = [failure for failure in failures if failure is not None]
        if not failed:
            return BatchResult(results)
        trouble = f"publishing {len(failed)} dead letters failed ({failed[0]}); they stay in their queues"
        return BatchResult(results, trouble)

    async def _publish_each(self, messages: Sequence[Outgoing]) -> list[str | None]:
        """Returns for each message why it was not confirmed, or None."""
        futures = [self.publisher.submit(message) for message in messages]
        await self._while_unblocked(futures)
        failures: list[str | None] = []
        for result in await asyncio.gather(*futures, return_exceptions=True):
            if isinstance(result, asyncio.CancelledError):
                failures.append("the broker blocks publishers: a memory or disk alarm")
            elif result is not None and not isinstance(result, PublishError):
                raise result
            else:
                failures.append(None if result is None else result.kind)
        return failures

    async def _while_unblocked(self, futures: Sequence["asyncio.Future[None]"]) -> None:
        """Wait for them; cancel those that are left when the broker has blocked publishers for so long."""
        pending, free_at = set(futures), time.monotonic()
        try:
            while pending and (pending := (await asyncio.wait(pending, timeout=_POLL_SECONDS))[1]):
                now = time.monotonic()
                free_at = free_at if self.publisher.blocked else now
                if now - free_at >= self.patience_seconds:
                    return
        finally:
            for future in futures:
                # What was not sent yet never is; what was sent may be confirmed without our knowing.
                if not future.cancel() and not future.cancelled():
                    future.exception()  # retrieved, also when this task was cancelled


# --- to the Registry --------------------------------------------------------------------------


class SubmitToRegistry:
    """Submits dead letters to the Registry, past the main queue. ``now`` is an aware clock.

    What concerns all journeys (a refused token, an outage, a wrong URL) ends the sweep.
    """

    def __init__(
        self,
        submission: Submission,
        rate_limiter: RateLimiter,
        *,
        version: schemas.Version,
        mapping: "EventMapping | None" = None,
        concurrency: int,
        now: Callable[[], datetime],
    ) -> None:
        self._submission = submission
        self._rate_limiter = rate_limiter
        self._version: schemas.Version = version
        self._mapping = mapping
        self._slots = asyncio.Semaphore(concurrency)
        self._now = now
        self._failures = 0
        self._trouble: str | None = None

    async def __call__(self, batch: Sequence[DeadLetterMessage]) -> BatchResult:
        words = map(_word, await asyncio.gather(*map(self._one, batch)))
        return BatchResult([Result(word, ack=word in IN_REGISTRY) for word in words], self._trouble)

    async def _one(self, dead: DeadLetterMessage) -> Outcome | None:
        ready = parse(dead.delivery, self._version, self._mapping)
        if isinstance(ready, outcomes.Invalid):
            return ready
        if ready.journey.end > self._now():
            return outcomes.Early(None)
        async with self._slots:
            outcome: Outcome | None = None
            for _ in range(_TRIES):
                if not await self._may_go():
                    return outcome
                outcome = await self._submission.submit(ready.body)
                if isinstance(outcome, outcomes.AlreadyRegistered):
                    # A dead letter may have been sent before: this 409 can hide a refusal.
                    outcome = await self._submission.verify(outcome, ready.journey.journey_id)
                if not isinstance(outcome, outcomes.Throttled | outcomes.Unavailable):
                    break
            self._notice(outcome)
            return outcome

    async def _may_go(self) -> bool:
        """Wait for the rate limiter; False when the sweep should end instead."""
        while self._trouble is None:
            held = self._rate_limiter.held_for(time.monotonic())
            if held > MOST_WAIT_SECONDS:
                self._trouble = f"the Registry asks to wait for {held:,.0f} s: run this again after that"
                break
            await asyncio.sleep(self._rate_limiter.reserve(time.monotonic()))
            if self._rate_limiter.held_for(time.monotonic()) <= 0.0:
                return self._trouble is None
        return False

    def _notice(self, outcome: Outcome | None) -> None:
        """End the sweep when an outcome concerns all journeys."""
        if isinstance(outcome, outcomes.Misconfigured):
            self._trouble = (
                f"the Registry does not serve this route ({outcome.detail}): is REGISTRY_URL right?"
            )
            return
        self._failures = self._failures + 1 if isinstance(outcome, _CONCERNS_ALL) else 0
        if self._failures >= MOST_FAILURES_IN_A_ROW:
            self._trouble = (
                f"{self._failures} journeys in a row ended as {_word(outcome)}: the others were not tried, "
                "and all of these stay in their queues"
            )


def batch_size(rate_per_minute: float, concurrency: int) -> int:
    """How many to submit at once: what five seconds of the rate, and four rounds of requests, can do.

    None of a batch is acknowledged before all of it has an outcome.
    """
    return max(1, min(BATCH, int(rate_per_minute / 60 * 5), 4 * concurrency))


def _word(outcome: Outcome | None) -> str:
    if outcome is None:
        return "not tried"
    if isinstance(outcome, outcomes.AlreadyRegistered):
        if outcome.detail == NO_STATUS_ROUTE:
            return "already registered (unverified)"
        return "already registered" if outcome.proof is outcomes.Proof.VERIFIED else UNVERIFIED
    return type(outcome).__name__.lower()


# --- away -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Discard:
    """Writes dead letters down, so that they can be removed. ``why`` is the operator's reason."""

    why: str
    audit: DurableJsonlFile
    archive: DurableJsonlFile | None
    now: Callable[[], datetime]

    async def __call__(self, batch: Sequence[DeadLetterMessage]) -> BatchResult:
        """Write the archive lines, if they are wanted, and the audit lines. Raises ConsumerError."""
        await asyncio.to_thread(self._write, batch)
        return BatchResult([Result(DISCARDED, ack=True)] * len(batch))

    def _write(self, batch: Sequence[DeadLetterMessage]) -> None:
        if self.archive is not None:
            self.archive.write(map(archive_line, batch))
        now, more = self.now(), {"why": self.why, "archived": self.archive is not None}
        self.audit.write(audit_line(DISCARDED, dead, now, **more) for dead in batch)
