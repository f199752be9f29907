"""Everyday programs, each run by a program in a session of its own, and just what they print."""

import shutil
from typing import Final

import pytest

from tests.backends.running import RunProgram

SCRIPTS: Final = {
    "sh": ("echo a | tr a b; printf '%s\\n' \"$HOME\"", "b\n/work\n"),
    "bash": ("a=(1 2 3); echo ${#a[@]}; cat <(echo substituted) <<< ignored", "3\nsubstituted\n"),
    "awk": ("printf '1 2\\n3 4\\n' | awk '{ s += $2 } END { print s }'", "6\n"),
    "sed": ("echo abc > f; sed -i s/b/X/ f; cat f", "aXc\n"),
    "grep": ("grep -c sandbox /etc/passwd", "1\n"),
    "find": ("mkdir -p d/e; touch d/e/f; find d -type f | xargs -n1 basename", "f\n"),
    "ls": ("ls -l /etc/passwd | awk '{ print $3, $4 }'", "nobody nogroup\n"),
    "sort": ("seq 20000 | sort -R | sort -n | tail -1", "20000\n"),
    "tar": ("mkdir d; echo x > d/x; tar czf d.tgz d; rm -r d; tar xzf d.tgz; cat d/x", "x\n"),
    "gzip": ("echo y | gzip | gunzip; echo z | xz | xz -d; echo b | bzip2 | bunzip2", "y\nz\nb\n"),
    "git": (
        "git init -q g && cd g && git config user.email a@b && git config user.name n && echo hi > a && git add a"
        " && git commit -qm one && git clone -q . ../h && cd ../h && git checkout -qb side && git gc -q"
        " && git log --format=%s",
        "one\n",
    ),
    "sqlite3": ("sqlite3 t.db 'pragma journal_mode=wal; create table t(a); insert into t values(1); select a from t'",
                "wal\n1\n"),
    "make": ("printf 'all: a b\\n\\t@echo made\\na b:\\n\\t@true\\n' > Makefile; make -s -j4", "made\n"),
    "gcc": (
        "printf '#include <stdio.h>\\nint main(void) { puts(\"compiled\"); return 0; }' > a.c; cc -O1 a.c && ./a.out",
        "compiled\n",
    ),
    "perl": ("perl -MFile::Temp=tempfile -e 'my ($f) = tempfile(); print $f ? join(\",\", map { $_ * 2 } 1..3) : 0'",
             "2,4,6"),
    "curl": (
        "python3 -c 'import http.server as h; s = h.HTTPServer((\"127.0.0.1\", 8765), h.SimpleHTTPRequestHandler);"
        " print(flush=True); s.handle_request()' 2>/dev/null > up & echo served > page; until [ -s up ]; do :; done;"
        " curl -s http://localhost:8765/page",
        "served\n",
    ),
    "openssl": (
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout k -out c -days 1 -subj /CN=localhost 2>/dev/null;"
        " openssl x509 -in c -noout -subject",
        "subject=CN = localhost\n",
    ),
    "ip": ("ip -o link | cut -d: -f2", " lo\n"),
    "getent": ("getent services https | tr -s ' '; getent protocols tcp | tr -s ' '", "https 443/tcp\ntcp 6 TCP\n"),
    "chrt": ("chrt -b 0 nice -n 5 nice", "5\n"),
    "flock": ("flock lock echo locked; mkfifo p; (echo through > p &) ; cat p", "locked\nthrough\n"),
    "timeout": ("timeout 0.1 sleep 60; echo $?", "124\n"),
    "ssh-keygen": ("ssh-keygen -q -t ed25519 -N '' -f k && ls k.pub", "k.pub\n"),
    "python3": ("python3 -m venv --without-pip v && v/bin/python -c 'import sys; print(sys.prefix)'", "/work/v\n"),
}  # fmt: skip


@pytest.mark.anyio
@pytest.mark.sandbox
@pytest.mark.parametrize("tool", SCRIPTS)
async def test_a_tool_does_what_it_does_anywhere(tool: str, run: RunProgram) -> None:
    if shutil.which(tool, path="/usr/bin:/bin") is None:
        pytest.skip(f"{tool} is not installed")
    script, printed = SCRIPTS[tool]

    ran = await run(f"import subprocess\nsubprocess.run(['bash', '-c', {script!r}])", memory_mib=512)

    assert (ran.stdout.decode(), ran.stderr.decode()) == (printed, "")


@pytest.mark.anyio
@pytest.mark.sandbox
async def test_a_program_can_read_and_start_its_own_interpreter(run: RunProgram) -> None:
    code = (
        "import subprocess\nprint(open('/proc/self/exe', 'rb').read(4), flush=True)\n"
        "subprocess.run(['/proc/self/exe', '-c', 'print(1)'])"
    )

    ran = await run(code)

    assert (ran.stdout, ran.stderr) == (b"b'\\x7fELF'\n1\n", b"")
