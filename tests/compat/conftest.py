"""A local backend for the whole module, and a way to run one program in it."""

from tests.backends.conftest import anyio_backend, backend, run

__all__ = ("anyio_backend", "backend", "run")
