"""What /proc shows of a process: its arguments and its environment, which a fork has from who it was forked from."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

_PR_SET_MM, _PR_SET_MM_MAP = 35, 14
_NO_EXECUTABLE = 2**32 - 1
#: Numbers of the fields of /proc/PID/stat that struct prctl_mm_map begins with; the break is between the halves.
_CODE_AND_DATA, _STACK = (26, 27, 45, 46, 47), 28

#: Memory that the kernel reads a process's arguments and environment from; it must stay.
_shown: list[mmap.mmap] = []


def prctl(option: int, second: int, third: bytes | int = 0, fourth: int = 0) -> None:
    """Call prctl(2).

    Raises
    ------
    OSError
        The kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    passed = third if isinstance(third, bytes) else ctypes.c_ulong(third)
    if libc.prctl(option, ctypes.c_ulong(second), passed, ctypes.c_ulong(fourth), ctypes.c_ulong(0)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}: {os.strerror(number)}")


def show(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Have /proc show these as this process's arguments and environment, as if it had been executed with them.

    Raises
    ------
    OSError
        The kernel does not do that.
    """
    first = b"".join(os.fsencode(argument) + b"\0" for argument in arguments)
    second = b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in environment.items())
    # The kernel reads it from anonymous private memory only.
    memory = mmap.mmap(-1, len(first) + len(second) + 1, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(first + second)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    middle, end = begin + len(first), begin + len(first) + len(second)
    layout = struct.pack("=11QQII", *_layout(), begin, middle, middle, end, 0, 0, _NO_EXECUTABLE)
    prctl(_PR_SET_MM, _PR_SET_MM_MAP, layout, len(layout))
    _shown.append(memory)


def _layout() -> list[int]:
    text = Path("/proc/self/stat").read_bytes()
    fields = text[text.rindex(b")") + 2 :].split()
    libc = ctypes.CDLL(None)
    libc.sbrk.restype = ctypes.c_void_p
    brk = int(libc.sbrk(ctypes.c_ssize_t(0)) or 0)
    return [*(int(fields[number - 3]) for number in _CODE_AND_DATA), brk, int(fields[_STACK - 3])]
