"""Dead letters: seen, understood, and sent again without a moment in which one is nowhere.

Pure: ``record`` reads one, ``filters`` selects, ``order`` puts the nearest deadline first, ``overview``
groups, ``masking`` hides persons. At the broker: ``sources`` finds the queues, ``sweep`` goes through
them, ``replay``, ``direct``, ``edit`` and ``discard`` are what can be done with each.
"""
