"""Sandboxes on this machine, made of namespaces, cgroups and seccomp by the launcher of `enclave.sandbox`."""

from enclave.backends.local.backend import LocalBackend

__all__ = ["LocalBackend"]
