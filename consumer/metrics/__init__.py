"""All instruments of the service, in one place, built from one catalogue.

Knows Prometheus and our vocabulary; must not know who counts or who scrapes. Every label set exists
at 0 from the start; no label value is ever an id.
"""

from consumer.metrics.catalogue import CATALOGUE, PREFIX, Instrument
from consumer.metrics.instruments import Metrics, retry_reason
from consumer.metrics.refusals import REFUSED_FIELDS, refused_field

__all__ = [
    "CATALOGUE",
    "PREFIX",
    "REFUSED_FIELDS",
    "Instrument",
    "Metrics",
    "refused_field",
    "retry_reason",
]
