"""A server that is killed at random, under load, and what must be true after each restart."""
