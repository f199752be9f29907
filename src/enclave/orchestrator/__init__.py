"""The backend-agnostic life of sessions: creation, running, streaming, teardown."""
