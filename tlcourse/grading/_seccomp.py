"""A short filter of system calls for the sandbox: what student code never needs and kernels regret.

Above all no new user namespace, in which a process would be root and could mount memory without
limit. bubblewrap takes the filter as a program for the kernel's BPF machine, which is written here
by hand, so that no library is needed: a load, a chain of comparisons, three ways to end.
"""

from __future__ import annotations

import platform
import struct

# Calls by number: the machine's audit code, then (clone, clone3), then those that are refused:
# unshare, setns, mount, keyctl, add_key, request_key, bpf, perf_event_open, userfaultfd,
# io_uring_setup, ptrace, process_vm_readv, process_vm_writev, kexec_load, open_tree, fsopen;
# and what makes memory that counts for no process: memfd_create, memfd_secret, shmget.
_MACHINES = {
    "x86_64": (
        0xC000003E,
        (56, 435),
        (
            272, 308, 165, 250, 248, 249, 321, 298, 323, 425, 101, 310, 311, 246, 428, 430,
            319, 447, 29,
        ),
    ),
    "aarch64": (
        0xC00000B7,
        (220, 435),
        (
            97, 268, 40, 219, 217, 218, 280, 241, 282, 425, 117, 270, 271, 104, 428, 430,
            279, 447, 194,
        ),
    ),
}  # fmt: skip
_LOAD, _EQUAL, _AT_LEAST, _BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _EPERM, _ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
_NEW_USER = 0x10000000  # clone's flag
_OTHER_ABI = 0x40000000  # x32 numbers its calls anew


def program(machine: str | None = None) -> bytes:
    """Return the filter for this machine, or nothing where its call numbers are not known.

    Examples
    --------
    >>> len(program("x86_64")) // 8  # instructions
    31
    >>> program("riscv64")
    b''
    """
    known = _MACHINES.get(machine or platform.machine())
    if known is None:
        return b""
    audit, (clone, clone3), refused = known
    steps = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, audit), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    checks = [(_AT_LEAST, _OTHER_ABI), *((_EQUAL, number) for number in refused)]
    # After the checks: clone3, clone (two steps), allow, EPERM, ENOSYS.
    for k, (what, number) in enumerate(checks):
        steps.append((what, len(checks) - k - 1 + 5, 0, number))
    steps += [
        (_EQUAL, 5, 0, clone3),  # its flags cannot be read here; without it, clone is used
        (_EQUAL, 0, 2, clone),
        (_LOAD, 0, 0, 16),  # clone's first argument
        (_BITS, 1, 0, _NEW_USER),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _EPERM),
        (_RETURN, 0, 0, _ENOSYS),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
