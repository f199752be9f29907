"""A hostile program: it looks for secrets, and for a way to send them out."""

import os
import socket

for path in ("/root/.ssh/id_rsa", "/home", "/etc/shadow", "/proc/1/environ", "/var/run/docker.sock"):
    print(f"{path}: {'FOUND' if os.access(path, os.R_OK) else 'nothing'}")

for name, address in {"metadata service": ("169.254.169.254", 80), "the internet": ("1.1.1.1", 443)}.items():
    try:
        socket.create_connection(address, timeout=2).close()
        print(f"{name}: REACHED")
    except OSError as error:
        print(f"{name}: {error.strerror}")

print(
    "environment:",
    {key: value for key, value in os.environ.items() if "KEY" in key or "TOKEN" in key or "SECRET" in key},
)
