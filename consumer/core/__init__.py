"""The rules, pure: no clock, no random, no I/O; time and jitter are arguments.

``delivery`` and ``reply`` are what comes in, ``outcome`` and ``policy`` what is made of it, ``headers``
and ``outgoing`` what goes out. Knows nothing of kombu, httpx or Prometheus.
"""
