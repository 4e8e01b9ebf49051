"""A local Registry for an operator's own tests: faithful answers, faults on demand.

Knows nothing of the consumer and is never imported by ``run``. ``answers`` and ``texts`` hold what it says,
``rules`` the order of its checks, ``lookups`` what comes after a 201, ``state`` what it remembers,
``faults`` how it can fail; ``server`` serves them as ``Sandbox``, with the routes that show and set them.
"""

from consumer.sandbox.answers import Profile
from consumer.sandbox.faults import Faults, Throttle
from consumer.sandbox.server import Sandbox
from consumer.sandbox.state import JourneyStatus, SeenRequest, StoredJourney

__all__ = ["Faults", "JourneyStatus", "Profile", "Sandbox", "SeenRequest", "StoredJourney", "Throttle"]
