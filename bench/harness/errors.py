"""What ends a benchmark."""


class BenchError(Exception):
    """It could not be measured; says why."""
