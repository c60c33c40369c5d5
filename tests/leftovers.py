"""What a killed process leaves of a write."""

import subprocess
import sys
from pathlib import Path

LEAVE = """
import os, sys
from pathlib import Path
from surefoot.offline_data.files import temporary
part = temporary(Path(sys.argv[1]))
part.mkdir() if sys.argv[2] == "folder" else part.write_bytes(b"half")
print(part, flush=True)
os.kill(os.getpid(), 9)
"""


def leave_half_a_file(path: Path, kind: str = "file") -> Path:
    """Return the temporary file, or folder, that a process had begun for `path` when it was killed."""
    process = subprocess.run(
        [sys.executable, "-c", LEAVE, str(path), kind], capture_output=True, text=True, check=False
    )
    return Path(process.stdout.strip())
