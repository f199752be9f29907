"""How a broker comes to stand."""

import os
import resource
import signal
import socket

from enclave.egress import broker
from enclave.sandbox import linux


def main(control: socket.socket) -> None:
    """Be a broker for whoever holds the other end of a SEQPACKET socket; it ends with that end."""
    linux.prctl(linux.PR_SET_NAME, b"enclave-broker")
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    # It holds secrets: no core of it. An ordinary user's must own its files in /proc, through which it connects.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    linux.prctl(linux.PR_SET_DUMPABLE, int(os.geteuid() != 0))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    broker.serve(control)
