"""The life of the service and of each delivery in it: taken, handled, settled, counted.

Knows the broker and the Registry only through the protocols that their edges implement.
"""
