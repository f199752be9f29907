"""A static program that uses no library's idea of a network: it is decided and recorded like any other."""

import base64
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.egress.conftest import Sandboxes
from tests.egress.site import OTHER, SERVER

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.sandbox,
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed"),
]

SOURCE = """
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(int count, char **hosts) {
  for (int at = 1; at < count; at++) {
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons(7)};
    char got[5] = "";
    int fd = syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
    inet_pton(AF_INET, hosts[at], &where.sin_addr);
    if (syscall(SYS_connect, fd, &where, sizeof where)) { printf("%s errno %d\\n", hosts[at], errno); continue; }
    write(fd, "ping", 4);
    read(fd, got, 4);
    printf("%s %s\\n", hosts[at], got);
  }
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    made: Path = tmp_path_factory.mktemp("static") / "program"
    built = subprocess.run(
        ["gcc", "-static", "-x", "c", "-", "-o", str(made)], input=SOURCE, text=True, capture_output=True, check=False
    )
    if built.returncode:
        pytest.skip("gcc has no static libc here")
    return base64.b64encode(made.read_bytes()).decode()


async def test_a_static_program_reaches_what_is_allowed_and_no_more(
    sandboxes: Sandboxes, program: str, nothing_reached: None
) -> None:
    told = await sandboxes.run(
        "import base64, os, subprocess\n"
        f"open('program', 'wb').write(base64.b64decode('{program}'))\nos.chmod('program', 0o755)\n"
        f"print(subprocess.run(['./program', '{SERVER}', '{OTHER}', '169.254.169.254'], capture_output=True).stdout)",
        [SERVER],
    )

    said = f"{SERVER} ping\n{OTHER} errno 13\n169.254.169.254 errno 13\n"
    assert told.printed == f"{said.encode()!r}\n"
    assert sorted(one.verdict for one in told.egress) == ["allowed", "closed", "denied", "denied"]
