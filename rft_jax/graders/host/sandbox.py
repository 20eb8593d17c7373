"""Isolation by the kernel: starting a Python script with nothing but Python around it.

bubblewrap (https://github.com/containers/bubblewrap) gives the process namespaces of its own: no
network, no other processes, a read-only tree with the parts of the system that Python needs, and
a scratch folder in memory. A seccomp filter comes on top, and the limits that the script sets for
itself.

The kernel does not count the processes of root, so that nothing would stop a fork bomb. As root all
is therefore done twice: once for a tree that any user can read, wherever Python is installed, then
in it as `nobody`.
"""

import os
import shutil
import site
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from rft_jax.graders.host.seccomp import seccomp_program
from rft_jax.utils.errors import InputError

SCRATCH = "/tmp"
NO_SANDBOX = "or pass --no-sandbox if the code may do whatever you may do"
# OpenAI's limits; those of memory and time are the script's own.
_SCRATCH_BYTES = 1 << 30
_CORES = 2
_NOBODY = "65534"
_SCRIPT = "/worker.py"  # the script inside
_TOOLS = {
    "bwrap": "bubblewrap",
    "setpriv": "util-linux",
    "taskset": "util-linux",
    "choom": "util-linux",
}
_DEVICES = ("/dev/null", "/dev/urandom")
_SYSTEM = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/zoneinfo",
    "/etc/ld.so.cache",
)
_ENVIRONMENT = {"LANG": "C.UTF-8", "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}


def library_paths() -> tuple[str, ...]:
    """The folders on `sys.path` where packages are installed."""
    installed = {*site.getsitepackages(), sysconfig.get_path("purelib")}
    installed |= {sysconfig.get_path("platlib"), site.getusersitepackages()}
    return tuple(path for path in dict.fromkeys(sys.path) if path in installed)


class Sandbox:
    """Starts a script in isolation.

    Attributes:
        packages: The folders of `library_paths`, by the names that they have inside.
    """

    def __init__(self, script: Path):
        """Looks for the tools.

        Raises:
            InputError: one is not installed; naming the package.
        """
        self._tools = {name: _tool(name, package) for name, package in _TOOLS.items()}
        self._filter = seccomp_program()
        libraries = {f"/packages/{i}": path for i, path in enumerate(library_paths())}
        self.packages = tuple(libraries)
        self._files = _system_files() | libraries | {_SCRIPT: str(script)}

    def start(self, number: int) -> subprocess.Popen[bytes]:
        """Starts the script with pipes for its standard input, output and error.

        Args:
            number: Of the process, which spreads several over the cores.
        """
        descriptor = os.memfd_create("seccomp")
        try:
            os.write(descriptor, self._filter)
            os.lseek(descriptor, 0, os.SEEK_SET)
            environment = _ENVIRONMENT | {"HOME": SCRATCH}
            return _start(self._command(number, descriptor), environment, "/", [descriptor])
        finally:
            os.close(descriptor)

    def _command(self, number: int, filter_descriptor: int) -> list[str]:
        cores = sorted(os.sched_getaffinity(0))
        chosen = {cores[(_CORES * number + i) % len(cores)] for i in range(_CORES)}
        limited = [self._tools["taskset"], "--cpu-list", ",".join(map(str, sorted(chosen)))]
        # If memory runs out, the kernel ends a grader before it ends a training run.
        limited += [self._tools["choom"], "--adjust", "1000", "--"]
        as_root = os.geteuid() == 0
        isolated = [
            *(self._tools["bwrap"], "--unshare-all", "--unshare-user", "--cap-drop", "ALL"),
            *("--uid", _NOBODY, "--gid", _NOBODY, "--hostname", "grader"),
            *("--as-pid-1", "--die-with-parent", "--new-session"),
            *_tree({name: name for name in self._files} if as_root else self._files),
            *("--size", str(_SCRATCH_BYTES), "--tmpfs", SCRATCH, "--chdir", SCRATCH),
            *("--remount-ro", "/", "--seccomp", str(filter_descriptor), "--"),
            *_python(_SCRIPT),
        ]
        return limited + (self._as_nobody() if as_root else []) + isolated

    def _as_nobody(self) -> list[str]:
        """What comes before a command so that root starts it as nobody, who can read the tree."""
        return [
            *(self._tools["bwrap"], "--unshare-pid", "--die-with-parent"),
            *("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"),
            *_tree(self._files | {tool: tool for tool in self._tools.values()}),
            *("--proc", "/proc", "--dir", SCRATCH, "--remount-ro", "/", "--"),
            *(self._tools["setpriv"], "--reuid", _NOBODY, "--regid", _NOBODY),
            *("--clear-groups", "--inh-caps=-all", "--"),
        ]


def start_unsandboxed(script: Path, scratch: str) -> subprocess.Popen[bytes]:
    """Starts a script without isolation: only the environment is as empty as in a sandbox."""
    return _start(
        _python(str(script)), _ENVIRONMENT | {"HOME": scratch, "TMPDIR": scratch}, scratch, []
    )


def _tool(name: str, package: str) -> str:
    path = shutil.which(name)
    if not path:
        raise InputError(
            f"python graders run in isolation, for which {name} is not installed here; run "
            f"`apt-get install {package}` on Linux, {NO_SANDBOX}"
        )
    return os.path.realpath(path)


def _python(script: str) -> list[str]:
    """The interpreter itself, not that of a virtual environment, with only its standard library."""
    return [os.path.realpath(sys.executable), "-I", "-S", script]


def _system_files() -> dict[str, str]:
    """What there is inside of the machine's C libraries and of Python, under their own names."""
    python = Path(os.path.realpath(sys.executable))
    own = (str(python), str(python.parent.parent / "lib"), sysconfig.get_path("stdlib"))
    return {path: path for path in (*_SYSTEM, *own) if os.path.exists(path)}


def _tree(files: Mapping[str, str]) -> list[str]:
    """bubblewrap's options for a read-only tree with two devices and these files and folders.

    Args:
        files: Where they are, by the names that they get.
    """
    options: list[str] = []
    folders: set[Path] = set()
    bound: set[Path] = set()
    for name, source in files.items():
        path = Path(name)
        if not bound.isdisjoint((path, *path.parents)):
            continue
        for folder in [*reversed(path.parents)][1:]:
            if folder not in folders:
                options += ["--dir", str(folder)]  # else it would be closed to other users
                folders.add(folder)
        if name == source and os.path.islink(source):
            options += ["--symlink", os.readlink(source), name]
        else:
            options += ["--ro-bind", source, name]
        bound.add(path)
    options += ["--dir", "/dev"]
    for device in _DEVICES:
        options += ["--dev-bind", device, device]
    return options


def _start(
    command: Sequence[str], environment: dict[str, str], folder: str, descriptors: Sequence[int]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=folder,
        pass_fds=descriptors,
        bufsize=0,
        start_new_session=True,
    )
