"""What the commands that open a policy share: the options of opening, and the policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from surefoot.evaluation.policies import AnyPolicy, load_any


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How policies are opened."""

    checkpoint: str = "latest"
    """Checkpoint of a run folder: `latest`, `best` or its step."""
    normalizer: Path | None = None
    """The vecnormalize.pkl of the archives, where it does not lie beside them; `none`: leave one that does out."""
    allow_pickle: bool = False
    """Let Stable-Baselines3 itself open archives that cannot be read otherwise, which runs code stored in them."""
    allow_code: bool = False
    """Run TorchScript programs, and import the modules that a file names for its task (`module:EnvId`)."""


def open_all(paths: Sequence[Path | str], options: Opening, device: torch.device | str = "cpu") -> list[AnyPolicy]:
    """Return the policies at the paths.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a file that is no policy, or refused.
        ImportError: an extra or the module of a function is missing, named.
    """
    settings = {
        "checkpoint": options.checkpoint,
        "normalizer": options.normalizer,
        "allow_pickle": options.allow_pickle,
        "allow_code": options.allow_code,
    }
    return [load_any(path, device=device, **settings) for path in paths]  # type: ignore[arg-type]
