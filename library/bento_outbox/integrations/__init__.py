"""Units of work as dependencies of web frameworks. Each module needs its framework installed."""
