"""The operator: one projector Deployment per OutboxTenant, and conditions that people can trust.

    watches (kopf) ──► cache ──► queue of keys ──► reconcile(key) ──► server-side apply ──► API server
                                                       │
                              manifests, drift, conditions: pure functions, no input or output

It is level driven: an event only says "look at this key again", and a look compares what should be with what is. So
lost, doubled and reordered events cost nothing but time, and nothing is written when nothing differs.
"""
