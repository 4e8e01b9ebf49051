"""What the handler hands to the settler: a disposition, with what is known of the journey."""

from dataclasses import dataclass

from consumer.core.headers import TrackingHeaders
from consumer.core.outcome import Disposition
from schemas import Journey


@dataclass(frozen=True, slots=True)
class HandlingResult:
    """The end of one delivery. ``attempts`` counts over all visits; ``journey`` is None when unreadable."""

    disposition: Disposition
    journey: Journey | None
    tracking_headers: TrackingHeaders
    attempts: int
