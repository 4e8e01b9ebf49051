"""Publishing by commands (``publish``), and invented journeys (``samples``)."""
