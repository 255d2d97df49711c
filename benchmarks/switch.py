"""Callgrind's switch: a driver that is not counting runs ten times as fast, so that only samples are counted."""

from __future__ import annotations

import ctypes
import functools
import mmap
import platform
from collections.abc import Callable

# Elsewhere everything is counted, and thrown away at the mark that begins a sample.
CAN_SWITCH = platform.machine() in ("x86_64", "AMD64")
_START, _STOP = 0x43540004, 0x43540005
# Valgrind's sign of a request, as its valgrind.h documents it: rotations that come round, and an exchange of a register
# with itself. A processor does nothing at it; Valgrind takes the request from where rax points to.
_REQUEST = bytes.fromhex("4889f8 31d2 48c1c703 48c1c70d 48c1c73d 48c1c733 4887db 4889d0 c3")


def counting(on: bool) -> None:
    """Have callgrind count from now on, or stop it. Does nothing outside of it."""
    if CAN_SWITCH:
        _request()((ctypes.c_long * 6)(_START if on else _STOP))


@functools.cache
def _request() -> Callable[[object], int]:
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(_REQUEST)
    function = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    function.page = page  # type: ignore[attr-defined]  # lives as long as the function
    return function
