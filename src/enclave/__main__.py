"""`python -m enclave` is the `enclave` command."""

from enclave.cli import main

if __name__ == "__main__":
    main()
