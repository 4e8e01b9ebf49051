"""Configuration: ``load`` makes frozen ``Settings`` of the environment or reports every mistake.

Knows the environment's names and rules; must not know what the settings are used for.
Nothing is read at import time; nothing that could be a secret is ever shown.
"""

from consumer.config.loading import load
from consumer.config.settings import Settings, described, settings_reference

__all__ = ["Settings", "described", "load", "settings_reference"]
