"""The token of v3.3: five minutes, obtained for a pair of keys.

1. One exchange at a time; a caller who gives up does not cancel it for the others.
2. At most ``CALLS_PER_MINUTE`` exchanges, the Registry's own limit, and a failure is remembered for a
   while instead of being repeated by every waiting journey.
3. A token is renewed before it expires, while the old one is still handed out.
4. Neither token nor keys are ever in a repr, a log line or an exception. Knows no HTTP client.
"""

import asyncio
import json
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from consumer.core.outcome import Forbidden, Misconfigured, Outcome, Throttled, Unauthorized, Unavailable
from consumer.core.reply import Fault, Reply
from consumer.errors import ConsumerError
from consumer.registry.classify import classify
from consumer.registry.secret import LoadedToken, UnusableSecretError, claims, moment, usable_secret
from consumer.registry.tokens import WATCH_INTERVAL_SECONDS

CALLS_PER_MINUTE: Final = 5
AFTER_FAILURE_SECONDS: Final = 60.0 / CALLS_PER_MINUTE
LIFETIME_SECONDS: Final = 300.0  # as documented, for a token that does not say
MAX_LIFETIME_SECONDS: Final = 24 * 3600.0
_MINUTE: Final = 60.0

_log = logging.getLogger("journey_consumer.registry")


def access_token_in(answer: Reply) -> str | None:
    """Find the token in an answer of the exchange; None when there is none fit for a header."""
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    for key in ("result", "data", None):  # like other answers: at the root, in result, in result.data
        if not isinstance(found, dict):
            return None
        token = found.get("access_token")
        if isinstance(token, str):
            try:
                return usable_secret(token.encode())
            except (UnusableSecretError, UnicodeEncodeError):
                return None
        found = found.get(key)
    return None


def refusal(answer: Reply | Fault) -> Outcome:
    """Say what an exchange without a token means for the journeys that wait for one.

    They were never sent: nothing here may look like a verdict on a journey.
    """
    if isinstance(answer, Reply) and 200 <= answer.status < 300:  # noqa: PLR2004
        return Unavailable("access_token_missing", answer.status)
    match classify(answer):
        case Unauthorized(status=status) | Forbidden(status=status):
            return Unauthorized(status, "access_keys_refused")
        case Unavailable() | Throttled() | Misconfigured() as outcome:
            return outcome
        case _:
            return Misconfigured(answer.status if isinstance(answer, Reply) else 0, "access_token_refused")


def lifetime_seconds(token: str, now: float) -> float:
    """Tell how long a fresh token lives: by its own claims, or as documented when they make no sense.

    ``exp - iat`` does not depend on our clock; ``exp`` alone is taken against ``now`` (epoch seconds).
    """
    said = claims(token)
    expires, issued = moment(said.get("exp")), moment(said.get("iat"))
    if expires is None:
        return LIFETIME_SECONDS
    lifetime = expires - (now if issued is None else issued)
    return lifetime if 0 < lifetime <= MAX_LIFETIME_SECONDS else LIFETIME_SECONDS


class ExchangedToken:
    """The v3.3 token of five minutes, obtained for the keys and renewed before it expires.

    ``exchange`` posts the keys; ``read_keys`` is called for each exchange, so that rotated keys are
    seen, and may raise OSError or ValueError. ``clock`` is monotonic, ``now`` epoch seconds; ``draw``
    gives the share of the lifetime, 10 to 20 %, that is left when renewal starts (replicas differ).
    """

    def __init__(
        self,
        exchange: Callable[[str, str], Awaitable[Reply | Fault]],
        *,
        read_keys: Callable[[], tuple[str, str]],
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._exchange = exchange
        self._read_keys = read_keys
        self._clock = clock
        self._now = now
        self._draw = draw
        self.held: LoadedToken | None = None
        self._renew_from = self._useless_from = 0.0
        self._forced_until = 0.0
        self._calls: deque[float] = deque(maxlen=CALLS_PER_MINUTE)
        self._failure: Outcome | None = None
        self._failure_until = 0.0
        self._task: asyncio.Task[LoadedToken | Outcome] | None = None

    async def token(self) -> str | Outcome:
        """Give a token that has not expired, exchanging the keys when needed.

        Else Unauthorized ``access_keys_refused``, Misconfigured ``access_keys_*`` or
        ``access_token_refused``, Throttled or Unavailable. A failure is not repeated within 12 s.
        """
        now = self._clock()
        if self.held is None or now >= self._useless_from:
            got = await self._renewed()
            return got.secret if isinstance(got, LoadedToken) else got
        if now >= self._renew_from and now >= self._failure_until:
            self._start()  # in the background: the current token is still good
        return self.held.secret

    async def renew(self, refused: str) -> bool:
        """Exchange once although the token has not expired; at most once a minute.

        A token that was refused is not handed out again when the exchange fails: ``token()`` then
        says why there is none.
        """
        if self.held is not None and self.held.secret != refused:
            return True
        now = self._clock()
        if now < self._forced_until and not self._running:
            return False
        self._forced_until = now + _MINUTE
        self._useless_from = min(self._useless_from, now)
        got = await self._renewed()
        return isinstance(got, LoadedToken) and got.secret != refused

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Call ``on_change`` when an exchange brought a new token."""
        known = self.held
        while True:
            if self.held is not known:
                known = self.held
                on_change()
            await asyncio.sleep(WATCH_INTERVAL_SECONDS)

    async def aclose(self) -> None:
        """Give up an exchange under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def _running(self) -> bool:
        return self._task is not None and not self._task.done()

    def _start(self) -> asyncio.Task[LoadedToken | Outcome]:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._obtain(), name="access-token")
        return self._task

    async def _renewed(self) -> LoadedToken | Outcome:
        """Wait for the one exchange, or give the failure that is too fresh to be repeated."""
        now = self._clock()
        if not self._running and self._failure is not None and now < self._failure_until:
            throttled = isinstance(self._failure, Throttled)
            return Throttled(self._failure_until - now) if throttled else self._failure
        return await asyncio.shield(self._start())

    async def _obtain(self) -> LoadedToken | Outcome:
        got = await self._attempt()
        if isinstance(got, LoadedToken):
            self.held, self._failure = got, None
            return got
        said = got.retry_after_seconds if isinstance(got, Throttled) else None
        self._failure_until = self._clock() + (AFTER_FAILURE_SECONDS if said is None else said)
        if type(got) is not type(self._failure):
            _log.warning("no access token: %s", type(got).__name__.lower())
        self._failure = got
        return got

    async def _attempt(self) -> LoadedToken | Outcome:
        started, started_at = self._clock(), self._now()
        if len(self._calls) == CALLS_PER_MINUTE and started - self._calls[0] < _MINUTE:
            return Throttled(self._calls[0] + _MINUTE - started)
        try:
            access_key, secret_key = self._read_keys()
        except (OSError, ValueError, ConsumerError):  # its text may quote them
            return Misconfigured(0, "access_keys_unusable")
        self._calls.append(started)
        answer = await self._exchange(access_key, secret_key)
        created = isinstance(answer, Reply) and 200 <= answer.status < 300  # noqa: PLR2004
        token = access_token_in(answer) if isinstance(answer, Reply) and created else None
        if token is None:
            return refusal(answer)
        lifetime = lifetime_seconds(token, started_at)
        held = LoadedToken(token, loaded_at=started_at, expires_at=started_at + lifetime)
        self._useless_from = started + lifetime
        self._renew_from = started + lifetime * (1 - self._draw(0.1, 0.2))
        _log.info("access token obtained for %.0f s, fingerprint %s", lifetime, held.fingerprint)
        return held
