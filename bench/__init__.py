"""Benchmarks, each a module with `PARTS`, what of the sandbox it needs, and `run(smoke)`, which returns its figures.

What is compared is measured in the same run, alternating, several times; the median is given, and the spread.
`smoke` means small numbers: it shows that the benchmark works, not how fast anything is.
"""
