"""The demo: the real service on embedded parts, a script that breaks them, an account that must balance.

``stage`` builds the parts, ``script`` says what happens in which order, ``view`` shows it, ``account``
counts at the end. The service comes from ``assembly``, exactly as `run` gets it; only its broker is
kombu's memory:// and its Registry the sandbox.
"""

from consumer.demo.account import Account, Evidence, Message, account
from consumer.demo.script import Demo
from consumer.demo.stage import Stage
from consumer.demo.view import PlainView, RichView, View

__all__ = ["Account", "Demo", "Evidence", "Message", "PlainView", "RichView", "Stage", "View", "account"]
