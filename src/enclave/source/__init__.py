"""Fetching the source that a session starts with, outside of any sandbox and behind walls of its own."""
