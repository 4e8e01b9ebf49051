"""The broker edge: the only place that sees kombu and py-amqp at run time.

``connection`` connects, ``declare`` creates missing queues, ``consumer`` consumes and acknowledges on
the event loop, ``publisher`` publishes with confirms in a thread of its own, ``virtual`` does both for
brokers without AMQP, ``inspect`` asks what exists, ``queue_reader`` reads any queue. Everything above
sees ``Delivery`` and ``Outgoing`` only.
"""
