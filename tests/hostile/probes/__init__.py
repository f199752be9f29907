"""The corpus, a module a family; each has `PROBES`."""
