"""The journey consumer: from an operator's queue to the Registry, with nothing lost."""

from importlib.metadata import version

__version__ = version("journey-consumer")
