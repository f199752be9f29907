"""The command line: `app` is its commands; whatever they need is imported when one of them runs."""

from enclave.cli.app import main

__all__ = ["main"]
