"""What an answer of the Registry means: from HTTP to our own words.

1. Pure: no clock, no I/O; nothing here raises, whatever the status, headers or body.
2. ``rules`` holds the tables from answer to outcome, ``jsonrpc`` reads bodies and decides what
   of them may be shown, ``budget`` reads the rate limits.
3. No outcome holds a word of the answer that is not in a table here: the Registry's error
   texts quote the journey's values.
4. Does not know how often a journey was tried, nor what follows: that is ``policy``.
"""

from consumer.answer import RateLimit
from consumer.classify.budget import rate_limit
from consumer.classify.rules import classify

__all__ = ["RateLimit", "classify", "rate_limit"]
