"""The egress broker: a process of its own that decides, opens and records every connection a sandbox makes.

It holds the secrets that are injected and the sandboxes' listeners; never the database, never the keys of callers.
"""
