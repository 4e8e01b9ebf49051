"""Configuration: ``load`` makes frozen ``Settings`` of the environment or reports every mistake.

Knows the environment's names and rules; must not know what the settings are used for.
Nothing is read at import time; nothing that could be a secret is ever shown.
"""

from consumer.config.loading import ALL, BROKER, REGISTRY, TOPOLOGY, load, near_misses
from consumer.config.settings import Settings, described, settings_reference

__all__ = [
    "ALL",
    "BROKER",
    "REGISTRY",
    "TOPOLOGY",
    "Settings",
    "described",
    "load",
    "near_misses",
    "settings_reference",
]
