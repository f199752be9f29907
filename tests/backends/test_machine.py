"""What this machine has, as far as it can be told without asking for a sandbox."""

import os
import subprocess
import sys

from enclave.backends.local import machine


def test_the_owner_of_a_cgroup_is_told_by_number_and_birth() -> None:
    """A number that is used again keeps nothing alive; an older version's name tells the number alone."""
    ours = machine.instance_name()
    pid, born, _ = ours.split("-")
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()

    assert int(pid) == os.getpid()
    assert machine.has_owner(ours)
    assert machine.has_owner(f"{pid}-0123abcd")
    assert not machine.has_owner(f"{pid}-{int(born) - 1}-0123abcd")
    assert not machine.has_owner(f"{ended.pid}-{born}-0123abcd")
    assert not machine.has_owner(f"{ended.pid}-0123abcd")
