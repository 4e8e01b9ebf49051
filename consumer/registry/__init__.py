"""The Registry edge: the only place that speaks HTTP, and the only one that sees tokens.

``client`` sends, ``classify`` says what an answer means, ``tokens`` and ``key_exchange`` authenticate.
Everything above sees a ``Reply``, a ``Fault`` or an ``Outcome``.
"""
