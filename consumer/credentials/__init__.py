"""Where the bearer token comes from: a setting, a file that rotates, or the key exchange of v3.3.

``secret`` says what may be a token, ``sources`` holds the tokens that are given to us, ``exchange``
the one that is fetched. None knows an HTTP client, and none ever shows a token or a key.
"""

from consumer.credentials.exchange import ExchangedToken
from consumer.credentials.secret import Held, UnusableSecretError, read_secret, usable_secret
from consumer.credentials.sources import FileToken, StaticToken, TokenSource

__all__ = [
    "ExchangedToken",
    "FileToken",
    "Held",
    "StaticToken",
    "TokenSource",
    "UnusableSecretError",
    "read_secret",
    "usable_secret",
]
