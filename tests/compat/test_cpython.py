"""CPython's own tests, run inside a session: what fails there alone is refused by a control, and a table says which."""

import fnmatch
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from enclave.backends.local import machine
from tests.backends.running import RunProgram

VERSION: Final = "3.11"
"""The table is about this one's tests."""

WHOLE: Final = """
    test_atexit test_cmd_line test_codecs test_collections test_context test_coroutines test_crypt test_csv
    test_ctypes test_dataclasses test_datetime test_dbm test_dbm_dumb test_decimal test_dict test_doctest
    test_eintr test_epoll test_exceptions test_faulthandler test_fcntl test_file test_fileio test_float
    test_fnmatch test_fork1 test_ftplib test_functools test_gc test_generators test_getpass test_glob test_grp
    test_gzip test_hashlib test_hmac test_httplib test_httpservers test_importlib test_inspect test_int test_io
    test_ioctl test_ipaddress test_itertools test_json test_largefile test_list test_locale test_math
    test_minidom test_mmap test_openpty test_os test_pathlib test_pickle test_platform test_poll test_popen
    test_posix test_posixpath test_pty test_pwd test_pyexpat test_queue test_random test_re test_readline
    test_resource test_runpy test_sax test_sched test_select test_selectors test_set test_shelve test_shutil
    test_signal test_site test_smtplib test_socketserver test_spwd test_ssl test_stat test_struct
    test_subprocess test_support test_sys test_sysconfig test_syslog test_tarfile test_tempfile test_thread
    test_threading test_threadsignals test_time test_traceback test_tracemalloc test_unicode test_urllib
    test_urllib2_localnet test_uuid test_venv test_wait3 test_wait4 test_xml_etree test_zipimport test_zlib
""".split()

PARTS: Final = """
    test.test_asyncio.test_events.EPollEventLoopTests.*
    test.test_bz2.BZ2FileTest.*
    test.test_concurrent_futures.ProcessPoolFork*WaitTest*
    test.test_email.test_message.*
    test.test_logging.FileHandlerTest.*
    test.test_lzma.FileTestCase.*
    test.test_multiprocessing_fork.WithProcessesTestQueue.*
    test.test_multiprocessing_forkserver.WithProcessesTestLock.*
    test.test_multiprocessing_spawn.WithProcessesTestLock.*
    test.test_socket.Basic*
    test.test_weakref.ReferencesTestCase.*
    test.test_zipfile.StoredTestsWithSourceFile.*
""".split()
"""Of modules that take long, what is run."""

MODULES: Final = {*WHOLE, *(part.split(".")[1] for part in PARTS)}

NO_TERMINALS: Final = "no devpts: the kernel's terminals are a surface of their own, and their buffers on no account"
NO_TRACE_OF_THE_HOST: Final = "the root has the runtime, and nothing of the host's /etc but public facts"
READ_ONLY: Final = "a read-only root says so before it says that a file is not there"
ONE_ID: Final = "the user namespace has one id: another is not forbidden, but invalid"

EXPECTED: Final[Mapping[str, str]] = {
    "test.test_asyncio.test_events.EPollEventLoopTests.test_*pty*": NO_TERMINALS,
    "test.test_openpty.OpenptyTest.test": NO_TERMINALS,
    "test.test_os.FDInheritanceTests.test_openpty": NO_TERMINALS,
    "test.test_pty.PtyTest.*": NO_TERMINALS,
    "test.test_readline.TestReadline.*": NO_TERMINALS,
    "test.test_os.ChownFileTests.test_chown_without_permission": ONE_ID,
    "test.test_subprocess.POSIXProcessTestCase.test_group": ONE_ID,
    "test.test_subprocess.POSIXProcessTestCase.test_user": ONE_ID,
    "test.test_doctest.TestDocTestFinder.test_empty_namespace_package": READ_ONLY,
    "test.test_importlib.test_threaded_import.ThreadedImportTests.*": READ_ONLY,
    "test.test_pickle.*.test_unpickle_module_race": READ_ONLY,
    "test.test_runpy.RunModuleTestCase.*": READ_ONLY,
    "test.test_support.TestSupport.test_forget": READ_ONLY,
    "test.test_spwd.TestSpwdNonRoot.test_getspnam_exception": NO_TRACE_OF_THE_HOST,
    "test.test_fcntl.TestFcntl.test_fcntl_64_bit": "seccomp: F_NOTIFY watches files that other sandboxes use too",
    "test.test_posix.TestPosixSpawn*.test_setscheduler_only_param": "seccomp: only real time has a parameter to set",
    "test.test_socket.*UDPLITE*": "seccomp: of the internet protocols only TCP and UDP",
}
"""Tests that pass outside, by pattern, and the control that refuses what they do."""

CODE: Final = """
import subprocess, sys
def run(*arguments):
    command = [sys.executable, "-m", "test", "-v", "-j6", "--timeout", "120", *arguments]
    subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT)
run(*WHOLE)
run(*[f"--match={part}" for part in PARTS], *[part.split(".")[1] for part in PARTS])
"""


def version() -> str:
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run([machine.python().path, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()


def lacking() -> str:
    if (found := version()) != VERSION:
        return f"the sandboxes' Python is {found}, the table is of {VERSION}"
    place = Path(machine.python().prefix, "lib", f"python{VERSION}", "test", "test_json")
    return "" if place.exists() else f"libpython{VERSION}-testsuite is not installed"


def failures(output: str) -> set[str]:
    """Ids of tests that failed, and names of whole modules that could not run."""
    tests = re.findall(r"^(?:ERROR|FAIL): \S+ \(([\w.@]+)\)", output, re.MULTILINE)
    modules = re.findall(r"^test (test_\w+) crashed", output, re.MULTILINE)
    return {*tests, *modules}


def finished(output: str) -> set[str]:
    """Modules that were run to their end."""
    return set(re.findall(r"\] (test_\w+) (?:passed|failed|skipped)", output))


@pytest.mark.anyio
@pytest.mark.sandbox
@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_what_cpython_tests_works_inside_or_is_refused_by_a_control(run: RunProgram) -> None:
    if why := lacking():
        pytest.skip(why)
    limits = {"memory_mib": 2048, "pids": 512, "disk_mib": 1024, "output_kib": 16384, "cpus": 4.0}
    code = f"WHOLE, PARTS = {WHOLE!r}, {PARTS!r}\n{CODE}"

    ran = await run(code, wall_clock_seconds=560, cpu_seconds=600, **limits)

    output = ran.stdout.decode(errors="replace")
    failed = failures(output)
    assert (ran.exit.code, ran.exit.kill_reason) == (0, None)
    assert MODULES - finished(output) == set()
    assert {test for test in failed if not any(fnmatch.fnmatch(test, row) for row in EXPECTED)} == set()
    assert [row for row in EXPECTED if not fnmatch.filter(failed, row)] == [], "rows that nothing needs any more"
