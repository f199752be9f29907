"""Isolation mechanisms; read `base` to write another."""
