"""What benchmarks are made of: a database, a namespace and processes of their own, a peer, and how a drain is timed."""
