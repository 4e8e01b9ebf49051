"""A local Registry for an operator's own tests: faithful answers, faults on demand.

Knows nothing of the consumer and is never imported by ``run``. What it answers is in
``answers``, in which order it checks in ``rules``, what it remembers in ``state``, how it
misbehaves in ``faults``; ``server`` puts them together as ``Sandbox``.
"""

from consumer.sandbox.answers import Profile
from consumer.sandbox.faults import Faults, Throttle
from consumer.sandbox.server import Sandbox
from consumer.sandbox.state import JourneyStatus, SeenRequest, StoredJourney

__all__ = ["Faults", "JourneyStatus", "Profile", "Sandbox", "SeenRequest", "StoredJourney", "Throttle"]
