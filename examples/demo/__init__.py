"""The demo: two tenants, an outage and a poisoned event, on real parts. Run by `make demo`.

story.py     what happens, in order; the only module that knows the plot
cluster.py   helm and kubectl, as a person would call them
topics.py    what consumers received
database.py  its own database, and what the outbox holds
outage.py    cuts a pod off from the broker
"""
