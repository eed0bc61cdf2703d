"""Becomes another program, after giving up what that program must not have.

Owns the last steps between fork and exec: the account, the one capability that may remain, and the signal that the
kernel sends when the parent dies. It runs as a script of its own (`python -I -S launch.py …`), because these steps may
not be done in a forked copy of a process that has threads. PostgreSQL refuses to run as root, so root needs the
account; and where the directories above the binaries or the records belong to root alone, the account needs
CAP_DAC_READ_SEARCH to pass through them. PostgreSQL asks access(2), which forgets capabilities of other users unless
SECBIT_NO_SETUID_FIXUP is set. Never import Headrace here, and never run anything as root that was asked to run as
somebody else.

Arguments: the parent's process id, the death signal, then "-" or "uid:gid" or "uid:gid:reach", then the command.
"""

from __future__ import annotations

import ctypes
import os
import sys

# linux/prctl.h, linux/securebits.h, linux/capability.h
PR_SET_PDEATHSIG = 1
PR_SET_SECUREBITS = 28
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
SECBIT_NO_SETUID_FIXUP = 1 << 2
CAP_DAC_READ_SEARCH = 2
CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityWord(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def main(arguments: list[str]) -> None:
    """Take the steps and exec; return only by raising OSError."""
    parent, death_signal, account, *command = arguments
    if account != "-":
        uid, gid, *reach = account.split(":")
        _become(int(uid), int(gid), reach=bool(reach))
    # after the change of account, which clears it (prctl(2))
    _prctl(PR_SET_PDEATHSIG, int(death_signal))
    if os.getppid() != int(parent):
        sys.exit("the parent died before the start")
    os.execv(command[0], command)  # noqa: S606 - exec without a shell is the purpose of this file


def _become(uid: int, gid: int, *, reach: bool) -> None:
    if reach:
        _prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    os.setgroups([gid])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if reach:
        _keep_only(CAP_DAC_READ_SEARCH)


def _keep_only(capability: int) -> None:
    """Drop every capability but one, and let that one survive exec."""
    mask = 1 << capability
    words = (_CapabilityWord * 2)(_CapabilityWord(mask, mask, mask), _CapabilityWord(0, 0, 0))
    header = _CapabilityHeader(CAPABILITY_VERSION_3, 0)
    if _libc.capset(ctypes.byref(header), words) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)


def _prctl(option: int, first: int, second: int = 0) -> None:
    # prctl takes unsigned longs, and refuses PR_CAP_AMBIENT where the unused ones are not zero
    numbers = [ctypes.c_ulong(number) for number in (first, second, 0, 0)]
    if _libc.prctl(option, *numbers) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


if __name__ == "__main__":
    main(sys.argv[1:])
