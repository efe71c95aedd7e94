"""The rules about system calls, and the program that they become.

The program is run here by a small machine, so both architectures are tested on either.
"""

from __future__ import annotations

import errno
import itertools
import struct

import pytest

from server.system import seccomp, syscalls

ALLOW = 0x7FFF0000
PERM, NOSYS = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS


def answer(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """Return what the kernel's filter machine would return for a call."""
    data = struct.pack("=IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    steps = list(struct.iter_unpack("=HBBI", program))
    at = value = 0
    while True:
        code, yes, no, operand = steps[at]
        at += 1
        match code:
            case 0x20:
                [value] = struct.unpack_from("=I", data, operand)
            case 0x54:
                value &= operand
            case 0x15:
                at += yes if value == operand else no
            case 0x35:
                at += yes if value >= operand else no
            case 0x06:
                return int(operand)
            case _:
                raise AssertionError(code)


class Machine:
    def __init__(
        self, architecture: str, *, network: bool = False, programs: bool = False, alone: bool = False
    ) -> None:
        self.architecture = architecture
        filters = [seccomp.rules(network=network, programs=programs)]
        if alone:
            filters.append([*seccomp.NO_PROCESSES, *seccomp.only_itself()])
        self.programs = [seccomp.program(seccomp.steps(each, architecture), architecture) for each in filters]

    def call(self, name: str, *arguments: int) -> int:
        number = syscalls.number(name, self.architecture)
        assert number is not None
        audited = syscalls.AUDIT_ARCHITECTURES[self.architecture]
        return min(answer(each, audited, number, *arguments) for each in self.programs)  # an error comes first


both = pytest.mark.parametrize("architecture", syscalls.ARCHITECTURES)


@both
def test_photo_may_neither_connect_nor_execute(architecture: str) -> None:
    """Sockets, programs and other processes are refused; forks by a limit."""
    machine = Machine(architecture)
    for name in ("socket", "connect", "execve", "ptrace", "bpf", "io_uring_setup", "setsid", "pidfd_getfd", "fchmodat"):
        assert machine.call(name) == PERM, name
    assert machine.call("clone3") == NOSYS
    assert machine.call("clone", 17) == ALLOW  # SIGCHLD
    assert Machine(architecture, alone=True).call("clone", 17) == PERM
    assert Machine(architecture, alone=True).call("clone", 0x3D0F00) == ALLOW  # a thread


@both
def test_processor_may_start_programs_but_no_namespace(architecture: str) -> None:
    """A processor starts programs; a new view of the system is refused."""
    machine = Machine(architecture, programs=True)
    assert machine.call("execve") == machine.call("clone", 17) == machine.call("kill", 1, 9) == ALLOW
    for bit in (0x10000000, 0x40000000, 0x00020000):  # NEWUSER, NEWNET, NEWNS
        assert machine.call("clone", bit | 17) == PERM


@both
def test_sockets_are_judged_by_family_and_kind(architecture: str) -> None:
    """The internet with ``network``; pairs of streams, and never datagrams."""
    machine = Machine(architecture, network=True, programs=True)
    unix, inet, inet6, netlink = 1, 2, 10, 16
    found = [machine.call("socket", family, 1) for family in (unix, inet, inet6, netlink)]
    assert found == [PERM, ALLOW, ALLOW, PERM]
    flags = 0o2000000 | 0o4000  # CLOEXEC, NONBLOCK
    assert [machine.call("socketpair", unix, kind | flags) for kind in (1, 2, 3, 5)] == [ALLOW, PERM, PERM, ALLOW]


@both
def test_arguments_that_reach_others_are_refused(architecture: str) -> None:
    """No limits of others, signals by the kernel, and typing into a terminal."""
    machine = Machine(architecture, programs=True)
    assert [machine.call("prlimit64", pid) for pid in (0, 1)] == [ALLOW, PERM]
    assert [machine.call("fcntl", 3, command) for command in (2, 8, 10, 15)] == [ALLOW, PERM, PERM, PERM]
    assert [machine.call("ioctl", 0, command) for command in (0x5401, 0x5412)] == [ALLOW, PERM]
    assert [machine.call("prctl", option) for option in (15, 1, 4)] == [ALLOW, PERM, PERM]
    high = 1 << 32  # the kernel looks at 32 bits of a command
    assert machine.call("ioctl", 0, high | 0x5412) == PERM


def test_other_instruction_sets_have_no_calls() -> None:
    """A 32-bit call, or one of x32, fails as if the kernel did not know it."""
    [program] = Machine("x86_64").programs
    assert answer(program, 0x40000003, 3) == NOSYS  # i386
    assert answer(program, syscalls.AUDIT_ARCHITECTURES["x86_64"], 0x40000000 | 41) == NOSYS


@both
def test_every_call_has_one_number(architecture: str) -> None:
    """No two names have one number, and every rule names a known call."""
    numbers = [found for name in syscalls.NUMBERS if (found := syscalls.number(name, architecture)) is not None]
    assert len(numbers) == len(set(numbers))
    ruled = itertools.chain(seccomp.ALWAYS, seccomp.NO_NETWORK, seccomp.NO_PROGRAMS, seccomp.NO_PROCESSES)
    assert all(name in syscalls.NUMBERS for rule in ruled for name in rule.calls)
    assert all(len(each) // 8 < 4096 for each in Machine(architecture, alone=True).programs)  # BPF_MAXINSNS
