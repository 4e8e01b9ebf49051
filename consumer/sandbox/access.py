"""Who may send: tokens as the Registry judges them, keys exchanged for five-minute tokens.

Gives answers, never exceptions. Says nothing of limits: the two servers count at different
moments, which is for ``rules`` to order.
"""

import base64
import binascii
import json
from datetime import datetime
from typing import Any

from consumer.sandbox.answers import Answer, Case, Profile, answer
from consumer.sandbox.state import Tokens, TokenState
from schemas import Version


class Access:
    """The door of one Registry. Without both keys, no key is accepted."""

    def __init__(
        self,
        profile: Profile,
        tokens: Tokens,
        *,
        keys: tuple[str | None, str | None],
        lifetime_seconds: float,
        operator_id: int,
    ) -> None:
        self._profile = profile
        self._tokens = tokens
        self._keys = keys
        self._lifetime_seconds = lifetime_seconds
        self._operator_id = operator_id

    def check(self, authorization: str | None, api: Version, now: datetime) -> tuple[Answer | None, str]:
        """The refusal, None when the token is accepted; and the token's name for the log."""
        if authorization is None:
            return answer(self._profile, api, Case.TOKEN_MISSING), "none"
        scheme, _, token = authorization.partition(" ")
        if scheme != "Bearer":
            return answer(self._profile, api, Case.TOKEN_UNUSABLE, detail="jwt malformed"), "unknown"
        state, name = self._tokens.check(token, now)
        match state:
            case TokenState.ACCEPTED:
                return None, name
            case TokenState.REVOKED:
                return answer(self._profile, api, Case.TOKEN_REVOKED), name
            case TokenState.CLAIMLESS:
                return answer(self._profile, api, Case.TOKEN_CLAIMLESS), name
            case TokenState.UNKNOWN:
                return answer(self._profile, api, Case.TOKEN_UNUSABLE, detail=_complaint(token)), name

    def exchange(self, request: Any, now: datetime) -> Answer:
        """A token for the keys in ``request``, or why not."""
        given = request if isinstance(request, dict) else {}
        lacking = [key for key in ("access_key", "secret_key") if not isinstance(given.get(key), str)]
        if lacking:
            detail = [f"/{key}: must be string" for key in lacking]
            return answer(self._profile, "v3", Case.KEYS_INCOMPLETE, detail=detail)
        if None in self._keys or (given["access_key"], given["secret_key"]) != self._keys:
            return answer(self._profile, "v3", Case.KEYS_REFUSED)
        token = self._tokens.exchange(now, self._lifetime_seconds, self._operator_id)
        return answer(self._profile, "v3", Case.KEYS_ACCEPTED, access_token=token)


def _complaint(token: str) -> str:
    """What the 2023 server's library says of a token that it can not use."""
    parts = token.split(".")
    if len(parts) != 3:  # noqa: PLR2004 -- header, claims, signature
        return "jwt malformed"
    try:
        json.loads(base64.urlsafe_b64decode(parts[0] + "==="))
    except (ValueError, binascii.Error):
        return "invalid token"
    return "invalid signature" if parts[2] else "jwt signature is required"
