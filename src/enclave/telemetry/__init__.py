"""How the platform does, for Prometheus."""
