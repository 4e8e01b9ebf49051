"""Structured logs: one line per event, ids and reasons only; never a payload's value or a token.

``configure`` sends the process's logging to an ``Output``; ``SettlementLog`` writes the line of each
settled delivery; ``Changes`` says a condition once instead of again and again.
"""

from consumer.logs.output import Output
from consumer.logs.records import LOGGER, Changes, Format, configure, exception_fields
from consumer.logs.settled import SettlementLog

__all__ = ["LOGGER", "Changes", "Format", "Output", "SettlementLog", "configure", "exception_fields"]
