"""Whatever a program does and whatever its limits are, its session comes to an end that the trail explains."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enclave import Enclave
from enclave.contracts.policy import RequestedLimits
from enclave.contracts.sessions import Phase
from enclave.serve import embedded

pytestmark = pytest.mark.sandbox

DEEDS = st.sampled_from(
    [
        "print('x' * 70000)",
        "import sys; sys.stderr.write('\\udcff' * 10)",
        "import os; os.write(1, bytes(range(256)) * 100)",
        "import os; os.close(1)",
        "import os; os.closerange(0, 100)",
        "import os; os.fork()",
        "import os; os.setsid() if os.fork() == 0 else None",
        "import os; os.kill(os.getpid(), 19)",
        "import os; os.kill(-1, 9)",
        "import os; os.write(6, b'X')",
        "import os; os.write(5, bytes(4))",
        "import os; os._exit(9)",
        "import signal; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 3, 15)]",
        "import threading, time; threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
        "import time; time.sleep(0.05)",
        "hoard = bytearray(30 << 20)",
        "enclave.result({'n': [1] * 1000})",
        "enclave.result(object())",
        "raise SystemExit(300)",
        "import os; os.path.exists('out') or os.mkdir('out'); open('out/a', 'w').write('x' * 99)",
        "import os; os.path.lexists('out') or os.symlink('/', 'out')",
        "1 / 0",
        "import ctypes; ctypes.string_at(0)",
        "while True: pass",
        "def f(): f()\nf()",
    ]
)
PROGRAMS = st.lists(DEEDS, min_size=1, max_size=4).map("\n".join)
LIMITS = st.builds(
    RequestedLimits,
    memory_mib=st.sampled_from([16, 32, 64]),
    wall_clock_seconds=st.floats(0.1, 0.6),
    cpu_seconds=st.floats(0.1, 0.6),
    cpus=st.sampled_from([0.2, 1.0]),
    pids=st.sampled_from([4, 8]),
    disk_mib=st.sampled_from([1, 64]),
    output_kib=st.sampled_from([1, 64]),
)
TERMINAL = {Phase.SUCCEEDED, Phase.FAILED, Phase.KILLED}


@pytest.fixture(scope="module")
def enclave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Enclave]:
    home = tmp_path_factory.mktemp("home")
    with embedded(home) as credential, Enclave(credential.base_url, api_key=credential.api_key) as client:
        yield client


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PROGRAMS, LIMITS)
def test_a_session_ends_and_its_trail_says_how(enclave: Enclave, code: str, limits: RequestedLimits) -> None:
    handle = enclave.run(code, limits=limits, wait=30)

    types = [event.type for event in handle.audit()]
    assert handle.session.phase in TERMINAL
    assert types[:2] == ["session_created", "sandbox_started"]
    assert types[2:] in (["workload_exited", "result_collected"], ["session_failed"])
