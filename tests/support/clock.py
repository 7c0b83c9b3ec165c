"""A clock for what takes one as a function."""


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self, now=100.0):
        self.now = now

    def __call__(self):
        return self.now
