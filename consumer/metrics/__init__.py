"""All instruments of the service, built from one catalogue.

Knows Prometheus and our vocabulary; must not know who counts or who scrapes. Every label set exists
at 0 from the start; no label value is ever an id.
"""

from consumer.metrics.catalogue import CATALOGUE, PREFIX, Instrument
from consumer.metrics.instruments import Metrics

__all__ = ["CATALOGUE", "PREFIX", "Instrument", "Metrics"]
