"""Public policies in the bodies that MuJoCo gave their robots when they were trained: is that why their returns differ?

Until 2.1.1 MuJoCo computed mass and inertia of a capsule as those of a cylinder, the middle of the capsule extended at
both ends by half its radius: 3 to 6 % too light. The v3 tasks ran on that. This plays archives whose return in v5
does not agree with the published one (`zoo.py`) in v5 with such bodies; all else is as there.

    python benchmarks/zoo_older.py rl-trained-agents
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium.envs.mujoco
import mujoco
import numpy as np
import torch
import tyro
from record import record_job, results_of
from zoo import agreement, read_published

from surefoot.evaluation.episodes import evaluate
from surefoot.evaluation.policies import fitted, load_any

NAME = "zoo_older"
MODELS = Path(gymnasium.envs.mujoco.__file__).parent / "assets"
FILES = {"Swimmer-v3": "swimmer.xml", "Hopper-v3": "hopper.xml"}


@dataclass
class Options:
    """What to measure."""

    zoo: tyro.conf.Positional[Path]
    """The folder of the policies."""
    only: tuple[str, ...] = ("trpo/Swimmer-v3", "a2c/Swimmer-v3", "ars/Hopper-v3", "tqc/Hopper-v3")
    """Archives of Swimmer-v3 and Hopper-v3; by default those that do not agree in v5."""
    episodes: int = 30
    """Episodes of each."""
    seed: int = 10_000
    """Reset seed of the first episode."""


def main(options: Options) -> None:
    """Measure every archive that has no result yet, one after the other."""
    torch.set_num_threads(1)
    published = read_published(options.zoo / "published.csv")
    for name in options.only:
        if name not in results_of(NAME):
            began = time.perf_counter()
            algorithm, task = name.split("/")
            figures = measure(options.zoo / name / f"{task}.zip", published[algorithm, task], options)
            record_job(NAME, name, figures, began=began, seeds=[options.seed])


def measure(path: Path, published: dict[str, float], options: Options) -> dict[str, Any]:
    """Return what one archive earns in the older bodies, and whether that agrees with the published mean."""
    opened = load_any(path)
    assert opened.env_config is not None
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "older.xml"
        model.write_text(with_older_bodies(MODELS / FILES[path.parent.name]), encoding="utf-8")
        task = replace(opened.env_config, kwargs=opened.env_config.kwargs | {"xml_file": str(model)})
        policy = fitted(opened, task)
        played = evaluate(policy.act, task, episodes=options.episodes, seed=options.seed, num_envs=options.episodes)
    figures = {"sha256": policy.sha256, "task": task.id, "episodes": options.episodes}
    return figures | agreement(played.returns, published)


def with_older_bodies(path: Path) -> str:
    """Return a model with the masses and inertias that MuJoCo gave its bodies until 2.1.1; contacts stay capsules'."""
    spec = mujoco.MjSpec.from_file(str(path))
    older = spec.copy()
    for geom in older.geoms:
        if geom.type == mujoco.mjtGeom.mjGEOM_CAPSULE:
            to_cylinder(geom)
    compiled = older.compile()
    for body in spec.bodies[1:]:
        number = compiled.body(body.name).id
        body.explicitinertial = True
        body.mass, body.ipos = compiled.body_mass[number], compiled.body_ipos[number]
        body.inertia, body.iquat = compiled.body_inertia[number], compiled.body_iquat[number]
    spec.compiler.inertiafromgeom = mujoco.mjtInertiaFromGeom.mjINERTIAFROMGEOM_FALSE
    spec.compile()
    return str(spec.to_xml())


def to_cylinder(capsule: Any) -> None:
    """Make a capsule a cylinder that is longer than its middle by its radius."""
    capsule.type, radius = mujoco.mjtGeom.mjGEOM_CYLINDER, capsule.size[0]
    if np.isnan(capsule.fromto[0]):
        capsule.size[1] += radius / 2
    else:
        start, end = capsule.fromto[:3].copy(), capsule.fromto[3:].copy()
        half = (end - start) / np.linalg.norm(end - start) * radius / 2
        capsule.fromto = np.concatenate([start - half, end + half])


if __name__ == "__main__":
    main(tyro.cli(Options))
