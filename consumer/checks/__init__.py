"""What ``journey-consumer check`` finds out before the service starts; nothing is changed.

``broker`` and ``registry`` ask the two neighbours, ``local`` looks at this machine. No finding holds
a password, a token or a key.
"""
