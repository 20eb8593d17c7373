"""The system calls that a sandboxed process may not make, as a filter for the kernel.

Namespaces already hide what these calls would reach. The filter takes away the calls themselves:
most ways out of a sandbox that became known lead through a seldom used part of the kernel. The list
is that of Docker and Flatpak (https://docs.docker.com/engine/security/seccomp,
https://github.com/flatpak/flatpak/blob/main/common/flatpak-run.c), with all sockets, whatever
outlives the process that made it, and whatever would reach the worker that graded code runs under.
"""

import errno
import tempfile

from rft_jax.utils.errors import InputError

_DENIED = (
    # Other processes: their memory, files, priority.
    "ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp pidfd_getfd "
    "setpriority ioprio_set sched_setaffinity sched_setattr sched_setparam sched_setscheduler "
    "migrate_pages move_pages mbind set_mempolicy set_mempolicy_home_node "
    # Namespaces and mounts.
    "unshare setns mount umount umount2 pivot_root chroot move_mount open_tree fsopen fsconfig "
    "fsmount fspick mount_setattr "
    # The network.
    "socket socketcall "
    # Memory that no limit counts, or that would be left behind for the next sample.
    "memfd_create memfd_secret shmget shmat shmctl msgget msgsnd msgrcv msgctl semget semop "
    "semctl semtimedop mq_open keyctl add_key request_key "
    # Large or privileged parts of the kernel that grading has no use for.
    "bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register "
    "fanotify_init name_to_handle_at open_by_handle_at lookup_dcookie quotactl quotactl_fd "
    "init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff acct "
    "syslog settimeofday clock_settime clock_adjtime adjtimex sethostname setdomainname iopl "
    "ioperm modify_ldt personality vhangup uselib ustat sysfs _sysctl nfsservctl vm86 vm86old"
).split()
# <linux/sched.h>: CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET; CLONE_NEWTIME is for clone3 only.
_NEW_NAMESPACE = (
    0x00020000,
    0x02000000,
    0x04000000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
_AF_UNIX = 1
_TERMINAL_REQUESTS = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: type into the terminal


def seccomp_program() -> bytes:
    """The filter, compiled for this machine: a denied call fails with EPERM.

    Returns:
        An array of `struct sock_filter`, as `bwrap --seccomp` takes it.

    Raises:
        InputError: the C library is missing.
    """
    try:
        import pyseccomp
    except RuntimeError:
        raise InputError(
            "python graders are isolated with libseccomp, which is not installed; run "
            "`apt-get install libseccomp2`"
        ) from None
    Arg, NE, MASKED_EQ = pyseccomp.Arg, pyseccomp.NE, pyseccomp.MASKED_EQ
    denied = pyseccomp.ERRNO(errno.EPERM)
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in _DENIED:
        rules.add_rule(denied, name)
    for flag in _NEW_NAMESPACE:
        rules.add_rule(denied, "clone", Arg(0, MASKED_EQ, flag, flag))
    # Its flags are behind a pointer; the C library falls back to clone.
    rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    rules.add_rule(denied, "socketpair", Arg(0, NE, _AF_UNIX))
    rules.add_rule(denied, "prlimit64", Arg(0, NE, 0))  # limits of another process
    for request in _TERMINAL_REQUESTS:
        rules.add_rule(denied, "ioctl", Arg(1, MASKED_EQ, 0xFFFFFFFF, request))
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()
