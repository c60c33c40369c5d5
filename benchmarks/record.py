"""How every benchmark reports: one JSON object, printed last and kept in benchmarks/results/NAME.json."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from surefoot.training.run_folder import provenance

RESULTS = Path(__file__).resolve().parent / "results"
STARTED = provenance()  # the code as it was loaded: a commit made while a benchmark runs is not what it measured


def record(name: str, figures: dict[str, Any], *, began: float, seeds: list[int]) -> None:
    """Write and print the figures with what they depend on; `began` is the script's first `time.perf_counter()`."""
    minutes = round((time.perf_counter() - began) / 60, 2)
    result = {"benchmark": name, **figures, "seeds": seeds, "minutes": minutes, **STARTED}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))
