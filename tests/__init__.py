"""The tests and what they share; regular, so that no other distribution's ``tests`` can take its name."""
