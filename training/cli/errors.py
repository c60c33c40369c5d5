"""What a wrong input looks like on the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_line_errors(exit_code: int) -> Iterator[None]:
    """Turn the errors that wrong input causes into one line on stderr; SUREFOOT_DEBUG=1 shows where they come from."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("SUREFOOT_DEBUG") == "1":
            raise
        quotes_a_log = isinstance(error, ChildProcessError)
        text = str(error) if quotes_a_log else " ".join(str(error).split())
        print(f"surefoot: error: {text}", file=sys.stderr)
        raise SystemExit(exit_code) from None
