"""What an operator does with dead letters: inspect, replay, edit, discard.

Pure: ``record`` reads one, ``selection`` filters, ``masking`` hides personal data, ``view`` prints. At the
broker: ``queues`` finds the queues, ``sweep`` reads them, ``actions`` and ``editing`` act on a batch, and
``audit`` writes what must be on the disk first. A dead letter is removed only after its action succeeded.
"""
