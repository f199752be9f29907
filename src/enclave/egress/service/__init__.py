"""Service bindings: what a sandbox may call with a secret that it never sees. It runs in the broker."""
