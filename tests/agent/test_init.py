"""PID 1 of a rank: how it starts the program, forwards signals and tells the end. The committed and a fresh build."""

import os
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.agent.small_rank import python, wait_until

from ergosphere.agent import self_test

SOURCE = self_test.INIT_FOLDER


@pytest.fixture(scope="module", params=["committed", "rebuilt"])
def init(request, tmp_path_factory):
    if request.param == "committed":
        return self_test.init_binary()
    if shutil.which("make") is None or shutil.which("cc") is None:
        pytest.skip("no compiler here, and none is needed")
    folder = tmp_path_factory.mktemp("init")
    for name in ("init.c", "Makefile"):
        shutil.copy(SOURCE / name, folder)
    subprocess.run(["make", "-s", "-C", folder], check=True, timeout=60)
    return folder / f"init-{platform.machine()}"


class Started:
    """init as PID 1 of a new PID namespace with a status pipe."""

    def __init__(self, init: Path, argv: list[str], **options) -> None:
        self.read_end, write_end = os.pipe()
        command = ["unshare", "--pid", "--fork", "--mount-proc", "setsid", str(init), str(write_end), *argv]
        self.process = subprocess.Popen(command, pass_fds=[write_end], stdout=subprocess.PIPE, **options)
        os.close(write_end)

    def pid(self) -> int:
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        wait_until(lambda: listed.read_text().strip(), "init")
        return int(listed.read_text().split()[0])

    def end(self) -> tuple[int, str, str]:
        out, _ = self.process.communicate(timeout=20)
        with os.fdopen(self.read_end) as status:
            return self.process.returncode, status.read(), out.decode()


def sh(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


@pytest.mark.parametrize("code", [0, 7, 255])
def test_an_exit_code_is_passed_on_and_recorded_raw(init, code):
    assert Started(init, sh(f"exit {code}")).end()[:2] == (code, f"{code << 8}\n")


def test_a_death_by_signal_is_recorded_raw_and_shown_as_128_plus_n(init):
    assert Started(init, sh("kill -SEGV $$")).end()[1] in ("11\n", "139\n")  # with or without a core file
    assert Started(init, sh("kill -KILL $$")).end()[:2] == (137, "9\n")


UNEXECUTABLE = [("/no/such", 127, "2"), ("/etc/passwd", 126, "13"), ("/", 126, "13")]


@pytest.mark.parametrize(("path", "code", "error"), UNEXECUTABLE)
def test_a_program_that_cannot_be_executed_is_told_apart_from_one_that_failed(init, path, code, error):
    assert Started(init, [path]).end()[:2] == (code, f"exec {error}\n")


def test_a_wrong_command_line_is_refused_before_anything_starts(init):
    for arguments in ([], ["x", "/bin/true"], ["3"], ["99", "/bin/true"]):
        ended = subprocess.run(["init", *arguments], executable=init, timeout=20)
        assert ended.returncode == 125


def test_arguments_and_environment_arrive_untouched(init):
    argv = ["/usr/bin/env", "printf", "%s|", "a b", "", "ü"]
    assert Started(init, argv, env={"PATH": os.environ["PATH"]}).end()[2] == "a b||ü|"
    only = {"ONLY": "this", "PATH": os.environ["PATH"]}
    assert "ONLY=this\n" in Started(init, ["/usr/bin/env"], env=only).end()[2]


def test_the_program_gets_its_own_session_default_signals_and_no_descriptor_of_ours(init):
    code = "import os; print(os.getsid(0) == os.getpid() == os.getpgid(0), len(os.listdir('/proc/self/fd')))"
    # Python itself ignores SIGPIPE and SIGXFSZ after its start, so the kernel's view is read by a shell.
    script = f"grep -E 'SigIgn|SigBlk' /proc/self/status; exec {os.path.realpath(sys.executable)} -I -S -c \"{code}\""
    started = Started(init, sh(script), preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    out = started.end()[2].splitlines()
    assert out[0].split()[1] == out[1].split()[1] == "0" * 16
    assert out[2] == "True 4"


FORWARDED = ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "CONT", "WINCH"]


GROUP = """
import os, signal, sys
number = int(sys.argv[1])
signal.pthread_sigmask(signal.SIG_BLOCK, [number])
child = os.fork()
os.write(1, b"up")
signal.sigwait([number])
if not child:
    os.write(1, b" child")
    os._exit(0)
os.waitpid(child, 0)
os.write(1, b" main")
sys.exit(3)
"""


@pytest.mark.parametrize("name", FORWARDED)
def test_a_signal_to_init_reaches_the_whole_process_group_of_the_program(init, name):
    number = int(getattr(signal, f"SIG{name}"))
    started = Started(init, [*python(GROUP), str(number)])
    pid = started.pid()
    assert started.process.stdout.read(4) == b"upup"
    os.kill(pid, number)
    assert started.end() == (3, f"{3 << 8}\n", " child main")


def test_orphans_are_reaped_and_the_program_goes_on(init):
    script = "for i in 1 2 3 4 5 6 7 8; do (sh -c 'exit 3' &); done; sleep 0.3; ls -d /proc/[0-9]* | wc -l; exit 4"
    code, status, out = Started(init, sh(script)).end()
    assert (code, status) == (4, f"{4 << 8}\n")
    assert int(out) <= 4  # init, the shell, ls and wc: none of the eight is left, not even as a zombie


def test_when_the_program_ends_everything_else_ends_too(init, tmp_path):
    code, _, _ = Started(init, sh(f"setsid sleep 77 & echo $! >{tmp_path}/pid; exit 5")).end()
    assert code == 5
    assert not any(command_line(pid).startswith(b"sleep\x0077") for pid in os.listdir("/proc") if pid.isdigit())


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # others' processes come and go
        return b""


def test_init_takes_next_to_no_memory_and_keeps_nothing_open(init):
    started = Started(init, sh("echo up; read line"), stdin=subprocess.PIPE)
    started.process.stdout.readline()
    pid = started.pid()
    wait_until(lambda: len(os.listdir(f"/proc/{pid}/fd")) == 4, "standard streams and the status only")
    assert int(Path(f"/proc/{pid}/statm").read_text().split()[1]) <= 8  # pages
    started.process.stdin.close()
    started.process.stdin = None
    assert started.end()[0] != 125


def test_the_committed_binary_is_small_and_static():
    image = self_test.init_binary("x86_64").read_bytes()
    assert image[:4] == b"\x7fELF" and len(image) < 8192
    assert b"ld-linux" not in image
    assert os.access(self_test.init_binary("x86_64"), os.X_OK)
