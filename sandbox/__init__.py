"""The real Postgres, Pulsar and Kubernetes on one Linux machine, for the demo, the tests and the benchmarks.

The model. Each *part* (`parts.py` lists them) has two halves:

    prepare()   on the host     builds what is missing, once, into the cache; may take minutes and use the network
    start()     in the sandbox  starts daemons from the cache; takes seconds; does nothing when they already run

The *sandbox* is a set of private namespaces (network, mounts, processes, IPC) kept alive by one init process
(`namespace.py`). Everything that runs, runs in it: when the init process ends, the kernel takes the rest away, and the
host keeps no interface, mount, rule or process. There is no way from it to the outside, by design: load and failure
tests cannot hit anything but the machine they run on.

What is built is cached by version and appears by an atomic rename (`caching.py`), so every command can be interrupted
and run again at any point. Nothing is ever written into the project.
"""
