"""How the command line was called, and what a wrong input looks like on it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def one_line_errors(exit_code: int) -> Iterator[None]:
    """Turn the errors that wrong input causes into one line on stderr; SUREFOOT_DEBUG=1 shows where they come from."""
    try:
        yield
    except BrokenPipeError:  # no error: whoever read the output has seen enough
        raise
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("SUREFOOT_DEBUG") == "1":
            raise
        quotes_a_log = isinstance(error, ChildProcessError)
        text = str(error) if quotes_a_log else " ".join(str(error).split())
        print(f"surefoot: error: {text}", file=sys.stderr)
        raise SystemExit(exit_code) from None


def program() -> str:
    """Return how `train` was called, for the user to call it again."""
    return "python train.py" if Path(sys.argv[0]).name == "train.py" else "surefoot train"
