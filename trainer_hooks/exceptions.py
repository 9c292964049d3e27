"""What is recorded of an exception: its type and place, never its message."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType


def kind(error: BaseException) -> str:
    """The exception's type; of one that ends the interpreter the exit status. A text it bears is printed."""
    if not isinstance(error, SystemExit):
        return type(error).__name__
    return f"exit code {error.code & 0xFF if isinstance(error.code, int) else 1}"


def place(traceback: TracebackType | None) -> str:
    """The innermost frame, as `file.py:line in function`; the folder is left out."""
    if traceback is None:
        return ""
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code
    return f"{Path(code.co_filename).name}:{traceback.tb_lineno} in {code.co_name}"


def is_out_of_memory(error: BaseException | None) -> bool:
    """Of Python, numpy or a device by its type; of torch on the host by its words alone."""
    return any(kind.__name__ in ("MemoryError", "OutOfMemoryError") for kind in type(error).__mro__) or (
        type(error) is RuntimeError and "DefaultCPUAllocator: can't allocate memory" in str(error)
    )
