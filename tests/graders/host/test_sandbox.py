"""What graded code cannot do in the sandbox, tried for real, and what it can do without one."""

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import textwrap

import pytest

from rft_jax.config import HostOptions
from rft_jax.graders import HostSample, Items, build_grader, grade_texts, load_grader
from rft_jax.graders.host import PythonGrader
from rft_jax.utils.errors import InputError

needs_sandbox = pytest.mark.skipif(
    not shutil.which("bwrap"), reason="needs bubblewrap; apt-get install bubblewrap"
)
PATIENCE_S, SHORT_S = 30, 2
# A grader that runs what it is given, as one does that tests programs.
SOURCE = """
import os, resource, signal, socket, sys

def libc():
    import ctypes
    return ctypes.CDLL(None, use_errno=True)

def grade(sample, item):
    scope = dict(globals(), item=item)
    exec(item["code"], scope)
    return scope["attack"]()
"""
INNOCENT = "def attack(): return 0.25"


def run(session, *codes, **more):
    """Grades a row for each code; the rows have `more` as further fields."""
    rows = [{"code": textwrap.dedent(code), **more} for code in codes]
    samples = [HostSample("")] * len(rows)
    return session.grade_batch(samples, Items(rows, "rows.jsonl"), range(len(rows)))


@pytest.fixture(scope="module")
def sandbox():
    """One worker, which is the one that grades after an attack unless it was replaced."""
    with PythonGrader("g", SOURCE).open(HostOptions(1, PATIENCE_S)) as session:
        yield session


@pytest.fixture(scope="module")
def impatient():
    """The same with little time for a sample."""
    with PythonGrader("g", SOURCE).open(HostOptions(1, SHORT_S)) as session:
        yield session


@pytest.fixture(scope="module")
def unsandboxed():
    options = HostOptions(1, PATIENCE_S, sandbox=False)
    with PythonGrader("g", SOURCE).open(options) as session:
        yield session


def fails(session, code, message, **more):
    """An attack earns nothing, for the reason given, and the next sample is graded as ever."""
    score, after = run(session, code, INNOCENT, **more)
    assert score.score == 0 and score.errors == {"python_grader_runtime_error"}
    assert message in score.message
    assert (after.score, after.errors, after.message) == (0.25, set(), "")


CONNECT = """
def attack():
    socket.create_connection(("127.0.0.1", item["port"]), 1)
    return 1.0
"""


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@needs_sandbox
def test_no_socket_can_be_opened(sandbox, unsandboxed, port):
    fails(sandbox, CONNECT, "PermissionError", port=port)
    assert run(unsandboxed, CONNECT, port=port)[0].score == 1


@needs_sandbox
@pytest.mark.parametrize("family", ["AF_UNIX", "AF_INET6", "AF_NETLINK", "AF_VSOCK", "AF_ALG"])
def test_sockets_of_no_family_can_be_opened(sandbox, family):
    code = f"def attack(): return bool(socket.socket(socket.{family}, socket.SOCK_DGRAM))"
    fails(sandbox, code, "PermissionError")


READ = "def attack(): return float(len(open(item['path'], 'rb').read()) > 0)"


@needs_sandbox
def test_files_outside_cannot_be_read(sandbox, unsandboxed, tmp_path):
    path = tmp_path / "secret"
    path.write_text("secret")
    fails(sandbox, READ, "FileNotFoundError", path=str(path))
    assert run(unsandboxed, READ, path=str(path))[0].score == 1


@needs_sandbox
@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/proc/self/environ", "/proc/1/environ", "/sys/kernel", "/usr/bin/env"]
)
def test_files_of_the_system_cannot_be_read(sandbox, path):
    fails(sandbox, READ, "FileNotFoundError", path=path)


ENVIRONMENT = """
def attack():
    texts = [str(dict(os.environ))]
    for process in {1, os.getppid(), item["pid"]}:
        try:
            texts.append(open(f"/proc/{process}/environ").read())
        except OSError:
            pass
    return float(any("RFT_JAX_SECRET" in text for text in texts))
"""


@needs_sandbox
def test_the_environment_of_the_parent_cannot_be_read(unsandboxed):
    # /proc/<pid>/environ shows what a process started with.
    program = textwrap.dedent(f"""
        import os, sys
        sys.path.insert(0, {os.getcwd()!r})
        from rft_jax.graders import HostSample, Items, build_grader, grade_texts, load_grader
        from rft_jax.config import HostOptions
        from rft_jax.graders.host import PythonGrader
        for sandbox in (True, False):
            options = HostOptions(1, sandbox=sandbox)
            items = Items([{{"code": {ENVIRONMENT!r}, "pid": os.getpid()}}], "rows")
            with PythonGrader("g", {SOURCE!r}).open(options) as session:
                print(session.grade_batch([HostSample("")], items, [0])[0].score)
    """)
    environment = os.environ | {"RFT_JAX_SECRET": "secret"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["0.0", "1.0"], done.stderr


WRITE = """
def attack():
    with open(item["path"], "w") as file:
        file.write("x")
    return 1.0
"""


@needs_sandbox
def test_nothing_outside_of_scratch_can_be_written(sandbox, unsandboxed, tmp_path):
    fails(sandbox, WRITE, "FileNotFoundError", path=str(tmp_path / "x"))
    for folder in ("/", "/dev", "/usr/lib", "/packages/0", sysconfig.get_path("stdlib")):
        fails(sandbox, WRITE, "Read-only file system", path=f"{folder}/rft_jax_escape")
    assert run(sandbox, WRITE, path="/tmp/x")[0].score == 1
    assert run(unsandboxed, WRITE, path=str(tmp_path / "x"))[0].score == 1


@needs_sandbox
def test_forks_are_counted(sandbox):
    code = """
        def attack():
            for n in range(1000):
                if os.fork() == 0:
                    signal.pause()
            return 1.0
    """
    fails(sandbox, code, "BlockingIOError")


BOMB = """
def attack():
    while True:
        try:
            os.fork()
        except OSError:
            pass
"""


@needs_sandbox
def test_a_fork_bomb_ends_with_its_sample(impatient):
    fails(impatient, BOMB, "took longer than 2 s")


@needs_sandbox
def test_a_fork_bomb_leaves_other_workers_their_processes():
    with PythonGrader("g", SOURCE).open(HostOptions(2, SHORT_S)) as session:
        bomb, *others = run(session, BOMB, *[INNOCENT] * 200)
    assert "took longer" in bomb.message
    assert {other.score for other in others} == {0.25}


@needs_sandbox
def test_ten_gigabytes_cannot_be_allocated(sandbox):
    fails(sandbox, "def attack(): return len(bytearray(10 << 30))", "MemoryError")


@needs_sandbox
def test_memory_is_limited_to_two_gigabytes(sandbox):
    code = "import mmap\ndef attack(): return len(mmap.mmap(-1, {} << 30))"
    fails(sandbox, code.format(2), "Cannot allocate memory")
    assert run(sandbox, code.format(1))[0].score == 1 << 30


@needs_sandbox
def test_the_disk_is_limited_to_one_gigabyte(sandbox):
    code = """
        def attack():
            for n in range(3):
                file = os.open(f"/tmp/{n}", os.O_CREAT | os.O_WRONLY)
                os.posix_fallocate(file, 0, 400 << 20)
            return 1.0
    """
    fails(sandbox, code, "No space left on device")


@needs_sandbox
def test_an_infinite_loop_runs_out_of_time(impatient):
    fails(impatient, "def attack():\n    while True: pass", "took longer than 2 s")


@needs_sandbox
@pytest.mark.parametrize(
    "target", ["1", "os.getppid()", "-1", "0 if os.setpgid(0, 0) else os.getppid()"]
)
def test_the_worker_cannot_be_killed(sandbox, target):
    code = f"""
        def attack():
            for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGINT, signal.SIGTERM):
                try:
                    os.kill({target}, number)
                except (PermissionError, ProcessLookupError):
                    pass
            return 0.5
    """
    before = worker_of(sandbox)
    score, after = run(sandbox, code, INNOCENT)
    assert (score.score, after.score) == (0.5, 0.25)
    assert worker_of(sandbox) is before


def worker_of(session):
    """The process of the one worker."""
    slot = session.pool._idle.get()
    session.pool._idle.put(slot)
    return slot._process


@needs_sandbox
def test_processes_outside_cannot_be_killed(sandbox, unsandboxed):
    victim = subprocess.Popen(["sleep", "1000"])
    code = "def attack(): return os.kill(item['pid'], signal.SIGKILL) is None"
    fails(sandbox, code, "ProcessLookupError", pid=victim.pid)
    assert victim.poll() is None
    assert run(unsandboxed, code, pid=victim.pid)[0].score == 1
    assert victim.wait() == -9


@needs_sandbox
@pytest.mark.parametrize(
    "call",
    [
        "resource.prlimit(1, resource.RLIMIT_NOFILE, (3, 3))",
        "os.setpriority(os.PRIO_PROCESS, 1, 19)",
        "os.sched_setaffinity(1, {0})",
        "check(libc().ptrace(16, 1, 0, 0))",
        "check(libc().unshare(0x10000000))",
        "check(libc().mount(b'none', b'/tmp', b'tmpfs', 0, None))",
        "check(libc().syscall(250, 0, 0))",  # keyctl on x86-64; on others there is no such call
        "os.chroot('/tmp')",
        "os.memfd_create('memory')",
        "check(libc().shmget(1, 4096, 0o1600))",
    ],
)
def test_the_worker_and_the_kernel_are_out_of_reach(sandbox, call):
    code = f"""
        import ctypes, os, resource
        def check(result):
            if result == -1:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        def attack():
            {call}
            return 1.0
    """
    fails(sandbox, code, "Operation not permitted")


@needs_sandbox
@pytest.mark.parametrize("stream", [1, 2])
def test_a_gigabyte_of_output_goes_nowhere(sandbox, stream):
    code = f"""
        def attack():
            for _ in range(1024):
                os.write({stream}, bytes(1 << 20))
            return 0.5
    """
    assert [score.score for score in run(sandbox, code, INNOCENT)] == [0.5, 0.25]


FLOOD = """
def attack():
    for number in range(3, 256):
        try:
            for _ in range(1 << 14):
                os.write(number, {content!r} * (1 << 16))
        except OSError:
            pass
    return 0.5
"""


@needs_sandbox
def test_a_gigabyte_into_the_worker_s_pipe_is_cut_off(sandbox):
    fails(sandbox, FLOOD.format(content=b"x"), "wrote to the worker's pipe")


@needs_sandbox
@pytest.mark.parametrize(
    "reply",
    [b'{"score": NaN}', b'{"score": "1"}', b'{"score": true}', b'{"score": 1e99}', b"[" * 9000]
    + [b"\xff", b"1", b"{}", b'{"score": 1' + b"0" * 5000 + b"}"],
)
def test_a_forged_reply_is_looked_into(sandbox, reply):
    code = f"""
        def attack():
            for number in range(3, 256):
                try:
                    os.write(number, {reply!r} + bytes([10]))
                except OSError:
                    pass
            os._exit(0)
    """
    fails(sandbox, code, "wrote to the worker's pipe")


@needs_sandbox
@pytest.mark.parametrize(
    "value, message",
    [
        ("'1.0'", "not str"),
        ("None", "not NoneType"),
        ("[1.0]", "not list"),
        ("float('nan')", "not nan"),
        ("float('-inf')", "not -inf"),
        ("10 ** 400", "OverflowError"),
        ("1e39", "float32"),
        ("type('Hostile', (), {'__float__': lambda self: 1.0})()", "not Hostile"),
        ("type('Number', (), {'__class__': property(lambda self: float)})()", "TypeError"),
        ("1j", "not complex"),
    ],
)
def test_what_is_no_number_earns_nothing(sandbox, value, message):
    fails(sandbox, f"def attack(): return {value}", message)


@needs_sandbox
@pytest.mark.parametrize(
    "value, score",
    [
        ("True", 1),
        ("3", 3),
        ("-0.5", -0.5),
        ("__import__('numpy').float32(0.5)", 0.5),
        ("__import__('numpy').float64(0.5)", 0.5),
        ("__import__('numpy').bool_(True)", 1),
        # Its value, whatever its methods say.
        ("type('Hostile', (float,), {'__float__': lambda self: 9.0})(0.5)", 0.5),
        ("type('Hostile', (int,), {'__index__': lambda self: 9})(2)", 2),
    ],
)
def test_numbers_are_scores(sandbox, value, score):
    found = run(sandbox, f"def attack(): return {value}")[0]
    assert (found.score, found.errors) == (score, set()), found.message


@needs_sandbox
@pytest.mark.parametrize(
    "code, message",
    [
        ("def attack(): sys.exit(0)", "SystemExit"),
        ("def attack(): os._exit(0)", "status 0"),
        ("def attack(): os.kill(os.getpid(), signal.SIGSEGV)", "status -11"),
        ("def attack(): raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("def attack(): return attack()", "RecursionError"),
        ("def attack(): import antigravity_is_not_installed", "ModuleNotFoundError"),
        ("def attack(:", "SyntaxError"),
    ],
)
def test_what_ends_otherwise_earns_nothing(sandbox, code, message):
    fails(sandbox, code, message)


@needs_sandbox
def test_tracebacks_show_the_source_and_not_the_worker(sandbox):
    message = run(sandbox, "def attack(): return 1 / 0")[0].message
    assert 'return scope["attack"]()' in message and "ZeroDivisionError" in message
    assert "worker.py" not in message


MONKEY_PATCH = """
import builtins, gc, json, math, types, __main__
def attack():
    for module in (__main__, json, math, os, builtins):
        for name in ("_number", "_run", "_read_reply", "_grade_in_fork", "dumps", "isfinite"):
            setattr(module, name, lambda *args: 1.0)
    for function in [f for f in gc.get_objects() if isinstance(f, types.FunctionType)]:
        if function.__module__ == "__main__":
            function.__code__ = (lambda *args: 1.0).__code__
    sys.modules["grader"].grade = lambda sample, item: 1.0
    return 1.0
"""


@needs_sandbox
def test_patching_the_worker_changes_no_later_score(sandbox):
    scores = run(sandbox, MONKEY_PATCH, INNOCENT, "def attack(): return 0.0")
    assert [score.score for score in scores][1:] == [0.25, 0]


@needs_sandbox
@pytest.mark.parametrize(
    "leave",
    [
        "open('/tmp/left', 'w').write('x')",
        "[(os.mkdir('deep'), os.chdir('deep')) for _ in range(2000)]",
        "os.mkdir('/tmp/left'); os.mkdir('/tmp/left/x'); os.chmod('/tmp/left', 0)",
        "os.symlink('/usr', '/tmp/left')",
        "os.mkfifo('/tmp/left')",
        "os.chmod('/tmp', 0)",
        "os.fork() or (os.setsid(), os.fork() or signal.pause())",
    ],
)
def test_nothing_is_left_for_the_next_sample(sandbox, leave):
    look = """
        def attack():
            try:
                os.kill(-1, 0)  # anybody but the worker and oneself
                return 1.0
            except ProcessLookupError:
                return float(bool(os.listdir("/tmp")))
    """
    first, second = run(sandbox, f"def attack():\n    {leave}\n    return 0.5", look)
    assert (first.score, second.score) == (0.5, 0), second.message


def test_a_worker_that_is_killed_costs_one_sample(unsandboxed):
    kill = "def attack(): os.kill(os.getppid(), signal.SIGKILL)"
    score, after = run(unsandboxed, kill, INNOCENT)
    assert score.errors == {"python_grader_server_error"} and after.score == 0.25


def test_a_worker_that_hangs_costs_one_sample(monkeypatch):
    monkeypatch.setattr("rft_jax.graders.host.pool._GRACE_S", 0.1)
    stop = "def attack(): os.kill(os.getppid(), signal.SIGSTOP)"
    with PythonGrader("g", SOURCE).open(HostOptions(1, SHORT_S, sandbox=False)) as session:
        score, after = run(session, stop, INNOCENT)
    assert score.errors == {"python_grader_server_error"} and after.score == 0.25
    assert "did not answer" in score.message


def test_without_the_tools_the_package_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="apt-get install bubblewrap.*--no-sandbox"):
        with PythonGrader("g", SOURCE).open(HostOptions()):
            pass


def test_without_namespaces_the_remedy_is_named(monkeypatch, tmp_path):
    sentence = "bwrap: No permissions to create new namespace"
    (tmp_path / "bwrap").write_text(f"#!/bin/sh\necho {sentence} >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(InputError, match=f"{sentence}.*sysctl.*--no-sandbox"):
        with PythonGrader("g", SOURCE).open(HostOptions()):
            pass


@needs_sandbox
def test_no_process_outlives_the_pool():
    with PythonGrader("g", SOURCE).open(HostOptions(2, SHORT_S)) as session:
        process = worker_of(session)
        # All processes of the sandbox hold this pipe open; it ends with the last of them.
        pipe = os.dup(process.stderr.fileno())
        run(session, INNOCENT)
    assert os.read(pipe, 1) == b""
    os.close(pipe)


@needs_sandbox
def test_a_python_grader_takes_part_in_a_formula():
    source = "def grade(sample, item):\n    return 1 / len(sample['output_text'])\n"
    check = {
        "type": "string_check",
        "input": "{{sample.output_text}}",
        "reference": "{{item.answer}}",
        "operation": "eq",
    }
    graders = {"short": {"type": "python", "source": source}, "right": check}
    spec = {"type": "multi", "graders": graders, "calculate_output": "0.5 * short + 0.5 * right"}
    items = [{"answer": "four"}] * 3
    grade = grade_texts(build_grader(load_grader(spec)), ["four", "no", ""], items)
    assert grade.reward.tolist() == [0.625, 0.25, 0]
    assert grade.valid.all()
    assert grade.errors["python_grader_runtime_error"].tolist() == [False, False, True]
