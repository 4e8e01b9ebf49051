"""The demo: the real service on embedded parts, a script that breaks them, an account that must balance.

``stage`` builds the parts, ``script`` says what happens in which order, ``view`` shows it, ``account``
counts at the end. The service comes from ``consumer.app``, as in `run`; only its broker is kombu's memory://
and its Registry the sandbox.
"""
