"""Archives of Stable-Baselines3 as users have them, written by hand: of 2021, with the pickles of another library."""

from __future__ import annotations

import base64
import io
import json
import pickle
import sys
import types
import zipfile
from contextlib import ExitStack, contextmanager
from itertools import pairwise

import numpy as np
import torch
import yaml


class Trap:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def old_space(kind="box.Box", **attributes):
    """What `data` says of a space of gym, whose pickle here is none."""
    return {
        ":type:": f"<class 'gym.spaces.{kind}'>",
        ":serialized:": base64.b64encode(b"no pickle at all").decode(),
        **attributes,
    }


def box(width, low="-inf", high="inf", dtype="float64"):
    numbers = {name: f"[{' '.join([bound] * width)}]" for name, bound in (("low", low), ("high", high))}
    return old_space(dtype=dtype, shape=[width], **numbers)


def mlp(prefix, *widths, bias=True):
    """Weights named as the library names those of a Sequential with activations in between."""
    generator = torch.Generator().manual_seed(sum(widths))
    tensors = {}
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        tensors[f"{prefix}.{2 * i}.weight"] = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
        if bias:
            tensors[f"{prefix}.{2 * i}.bias"] = torch.randn(outputs, generator=generator)
    return tensors


def sac_weights(obs=3, act=1, hidden=(8, 8)):
    trunk = mlp("actor.latent_pi", obs, *hidden)
    head = {name.replace(".0.", "."): t for name, t in mlp("actor.mu", hidden[-1], act).items()}
    return {
        **trunk,
        **head,
        "actor.log_std.weight": torch.zeros(act, hidden[-1]),
        "actor.log_std.bias": torch.zeros(act),
    }


def sac_data(obs=3, act=1, bound="2.", **further):
    return {
        "policy_class": {":type:": "<class 'abc.ABCMeta'>", "__module__": "stable_baselines3.sac.policies"},
        "policy_kwargs": {"use_sde": False, "net_arch": [8, 8]},
        "observation_space": box(obs),
        "action_space": box(act, f"-{bound}", bound, "float32"),
        "num_timesteps": 1000,
        "seed": 7,
        **further,
    }


def write(path, data=None, weights=None, **entries):
    """Write an archive; by default a SAC policy for Pendulum."""
    buffer = io.BytesIO()
    torch.save(sac_weights() if weights is None else weights, buffer)
    content = {"data": json.dumps(sac_data() if data is None else data), "policy.pth": buffer.getvalue(), **entries}
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in content.items():
            archive.writestr(name, value)
    return path


def write_config(folder, **settings):
    """Write `config.yml` as RL Zoo does."""
    pairs = yaml.safe_dump([[[name, value] for name, value in settings.items()]])
    (folder / "config.yml").write_text(f"!!python/object/apply:collections.OrderedDict\n{pairs}")


@contextmanager
def module(name, **classes):
    """A module that is there while a pickle of its classes is written, and gone when it is read."""
    made = types.ModuleType(name)
    for class_name, cls in classes.items():
        cls.__module__, cls.__qualname__ = name, class_name
        setattr(made, class_name, cls)
    before = sys.modules.get(name)
    sys.modules[name] = made
    try:
        yield
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before


def old_statistics(mean, variance, protocol=4, **further):
    """The bytes of a `vecnormalize.pkl` of 2021: spaces of gym with their generator, NumPy scalars, a state."""
    classes = {
        "gym.spaces.box": {"Box": type("Box", (), {})},
        "stable_baselines3.common.running_mean_std": {"RunningMeanStd": type("RunningMeanStd", (), {})},
        "stable_baselines3.common.vec_env.vec_normalize": {"VecNormalize": type("VecNormalize", (), {})},
    }
    made = {name: cls() for group in classes.values() for name, cls in group.items()}
    made["Box"].__dict__.update(dtype=np.dtype("f4"), shape=mean.shape, np_random=np.random.RandomState(0))
    made["RunningMeanStd"].__dict__.update(mean=mean, var=variance, count=np.float64(5.0))
    state = {"observation_space": made["Box"], "obs_rms": made["RunningMeanStd"], "norm_obs": True, "epsilon": 1e-8}
    made["VecNormalize"].__dict__.update({**state, "clip_obs": 10.0, "training": np.bool_(True), **further})
    with ExitStack() as stack:
        for name, group in classes.items():
            stack.enter_context(module(name, **group))
        return pickle.dumps(made["VecNormalize"], protocol)
