"""MuJoCo Warp as the simulator of Gymnasium's MuJoCo tasks; only `tasks` can be imported without it."""

from __future__ import annotations


def require_installed() -> None:
    """Raise `ImportError` with the way out where MuJoCo Warp is not installed."""
    try:
        import mujoco_warp  # noqa: F401
    except ImportError as error:
        raise ImportError(f'--env.backend warp needs MuJoCo Warp ({error}): pip install "surefoot[warp]"') from error
