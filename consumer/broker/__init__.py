"""The broker edge: the only place that sees kombu and py-amqp at run time.

``dial`` connects, ``declare`` makes sure of the queues, ``intake`` takes deliveries and writes
acknowledgements from the event loop, ``publisher`` publishes with confirms from a thread of its
own, ``virtual`` does both for transports without AMQP. Everything above speaks ``Delivery`` and
``Outgoing``.
"""
