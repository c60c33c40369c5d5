"""Time of a training call of the dynamics model, seven stacked members against seven networks, and of its rollouts.

HalfCheetah's shapes (17 and 6 numbers), MBPO's network, 20,000 rows, the same number of epochs. "plain" is what one
would write for a single network: torch.nn layers, the decay in the loss, torch.optim.Adam as it comes. All ways take
turns in one process. CPU time of one thread hardly depends on what else a machine does; wall-clock time does.

Where mbrl-lib can be imported (`pip install mbrl`, 0.2.0; best in an environment of its own, it wants an old gym), its
stacked ensemble takes its turn at the training calls, too.

    python benchmarks/dynamics_speed.py [--threads 1 2]  # in autograd, and by the native engine
    python benchmarks/dynamics_speed.py --device cuda [--compile]  # eager, and as CUDA graphs
"""

from __future__ import annotations

import copy
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
import tyro
from record import record
from torch import Tensor, nn

from surefoot.agents.interface import Batch, Setting, Spaces
from surefoot.agents.lipschitz_mbrl.dynamics import (
    DynamicsConfig,
    bounded_log_var,
    gaussian_loss,
    model_inputs,
    model_target,
)
from surefoot.agents.lipschitz_mbrl.dynamics_training import DynamicsModel
from surefoot.agents.lipschitz_mbrl.imagination import Imagination, ImaginationConfig
from surefoot.agents.parts.networks import TanhGaussianPolicy
from surefoot.agents.parts.replay import Replay
from surefoot.envs.termination import walker2d

OBS, ACT, ROWS, MEMBERS = 17, 6, 20_000, 7
ENSEMBLE = DynamicsConfig(ensemble_size=MEMBERS, elites=5, model_output="gaussian", model_patience=10_000)
SINGLE = replace(ENSEMBLE, ensemble_size=1, elites=1)
BATCH = ENSEMBLE.model_batch_size
SETTING = Setting(Spaces(None, None), 0, torch.device("cpu"), termination=walker2d)  # type: ignore[arg-type]

Way = Callable[[], Any]


def make_rows() -> Batch:
    """Return transitions of a stable linear system of HalfCheetah's size."""
    generator = torch.Generator().manual_seed(0)
    obs = torch.randn(ROWS, OBS, generator=generator)
    obs[:, 0] = 1.2 + 0.1 * obs[:, 0]  # a height at which Walker2d's rule lets most rows continue
    action = 2 * torch.rand(ROWS, ACT, generator=generator) - 1
    change = 0.1 * torch.randn(OBS + ACT, OBS, generator=generator)
    next_obs = obs + 0.1 * model_inputs(obs, action) @ change + 0.01 * torch.randn(ROWS, OBS, generator=generator)
    return Batch(obs, action, obs[:, 8], next_obs, torch.zeros(ROWS))


# --- the plain way ----------------------------------------------------------------------------------------------------


class PlainNetwork(nn.Module):
    """One member in torch.nn's layers, with its optimiser."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, o in itertools.pairwise([OBS + ACT, *ENSEMBLE.model_hidden]):
            layers += [nn.Linear(i, o), nn.SiLU()]
        self.net = nn.Sequential(*layers, nn.Linear(ENSEMBLE.model_hidden[-1], 2 * (OBS + 1)))
        self.low, self.high = (nn.Parameter(torch.full((OBS + 1,), value)) for value in (-10.0, 0.5))
        self.optimiser = torch.optim.Adam(self.parameters(), lr=ENSEMBLE.model_lr)

    def update(self, x: Tensor, y: Tensor) -> None:
        mean, raw = self.net(x).chunk(2, -1)
        loss = gaussian_loss(mean, bounded_log_var(raw, self.low, self.high), y) + 0.01 * (self.high - self.low).sum()
        layers = [layer for layer in self.net if isinstance(layer, nn.Linear)]
        for c, layer in zip(ENSEMBLE.model_decay, layers, strict=True):
            loss = loss + 0.5 * c * layer.weight.square().sum()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()

    def train_on(self, x: Tensor, y: Tensor, epochs: int) -> None:
        """One training call, with holdout errors and the best weights kept."""
        order = torch.randperm(ROWS, device=x.device)
        held, fit = order[: ROWS // 5], order[ROWS // 5 :]
        x = (x - x[fit].mean(0)) / x[fit].std(0)
        drawn = fit[torch.randint(len(fit), (len(fit),), device=x.device)]
        best, weights = float("inf"), self.net.state_dict()
        for _ in range(epochs):
            for batch in drawn[torch.randperm(len(drawn), device=x.device)].split(BATCH):
                self.update(x[batch], y[batch])
            with torch.no_grad():
                error = float((self.net(x[held])[:, : OBS + 1] - y[held]).square().mean())
            if error < 0.99 * best:
                best, weights = error, copy.deepcopy(self.net.state_dict())
        self.net.load_state_dict(weights)


# --- a peer -----------------------------------------------------------------------------------------------------------


def mbrl_lib(rows: Batch, epochs: int) -> dict[str, Way]:
    """Return a training call of mbrl-lib's ensemble of the same shape, or nothing where mbrl-lib is not installed."""
    if find_spec("mbrl") is None:
        return {}
    from mbrl.models import GaussianMLP, ModelTrainer, OneDTransitionRewardModel
    from mbrl.util.common import get_basic_buffer_iterators
    from mbrl.util.replay_buffer import ReplayBuffer

    obs, action, reward, next_obs, terminated = (field.numpy() for field in rows)
    buffer = ReplayBuffer(ROWS, (OBS,), (ACT,), rng=np.random.default_rng(0))
    buffer.add_batch(obs, action, next_obs, reward, terminated.astype(bool), terminated.astype(bool))

    def train() -> None:
        swish, layers = {"_target_": "torch.nn.SiLU"}, len(ENSEMBLE.model_hidden)
        net = GaussianMLP(OBS + ACT, OBS + 1, "cpu", layers, MEMBERS, ENSEMBLE.model_hidden[0], activation_fn_cfg=swish)
        model = OneDTransitionRewardModel(net, num_elites=ENSEMBLE.elites)
        fit, held = get_basic_buffer_iterators(buffer, BATCH, ENSEMBLE.holdout_ratio, ensemble_size=MEMBERS)
        model.update_normalizer(buffer.get_all())
        ModelTrainer(model, optim_lr=ENSEMBLE.model_lr).train(fit, held, num_epochs=epochs, silent=True)

    return {"mbrl-lib": train}


# --- training calls and single updates --------------------------------------------------------------------------------


def fast_settings(device: torch.device, compiled: bool) -> dict[str, Setting]:
    """Return the settings in which the stack is trained, by what is said of them; the first is autograd's."""
    plain = replace(SETTING, device=device)
    settings = {"": plain}
    if device.type == "cuda":
        settings[", as a CUDA graph"] = replace(plain, cudagraph=True)
    else:
        settings[", native"] = replace(plain, engine="native")
    if compiled:
        ours = [said for said, setting in settings.items() if setting.engine == plain.engine]
        settings |= {f", compiled{said}": replace(settings[said], compile=True) for said in ours}
    return settings


def training_calls(rows: Batch, epochs: int, settings: dict[str, Setting]) -> dict[str, Way]:
    """Return a whole call for seven members in each way; "products" has only the matrix products of the updates.

    Where updates are compiled or captured a model is made once: every call of it after the first is like its second.
    """
    setting, rows = settings[""], Batch(*(field.to(settings[""].device) for field in rows))
    x, y = model_inputs(rows.obs, rows.action), model_target(rows)

    def model(config: DynamicsConfig, setting: Setting) -> DynamicsModel:
        return DynamicsModel(replace(config, model_epochs=epochs), setting, OBS, ACT)

    def plain() -> None:
        for _ in range(MEMBERS):
            PlainNetwork().to(setting.device).train_on(x, y, epochs)

    updates = -(-(ROWS * 4 // 5) // BATCH)
    ready = {said: model(ENSEMBLE, fast) for said, fast in settings.items() if said}
    return {
        "stacked": lambda: model(ENSEMBLE, setting).train(rows),
        **{f"stacked{said}": partial(made.train, rows) for said, made in ready.items()},
        "ours, one after another": lambda: [model(SINGLE, setting).train(rows) for _ in range(MEMBERS)],
        "plain, one after another": plain,
        "products": lambda: products(epochs * updates, setting.device),
        **(mbrl_lib(rows, epochs) if setting.device.type == "cpu" else {}),
    }


def products(updates: int, device: torch.device) -> None:
    """Take the matrix products of the stacked updates: 3 per layer, the first without its inputs' gradient."""
    shapes = list(itertools.pairwise([OBS + ACT, *ENSEMBLE.model_hidden, 2 * (OBS + 1)]))
    weights = [torch.randn(MEMBERS, i, o, device=device) for i, o in shapes]
    inputs, outputs = ([torch.randn(MEMBERS, BATCH, shape[k], device=device) for shape in shapes] for k in (0, 1))
    for _ in range(updates):
        for layer, (x, w, y) in enumerate(zip(inputs, weights, outputs, strict=True)):
            torch.bmm(x, w)
            torch.bmm(x.mT, y)
            if layer:
                torch.bmm(y, w.mT)


def single_updates(rows: Batch, settings: dict[str, Setting]) -> dict[str, Way]:
    """Return one update of all seven members in each way."""
    setting = settings[""]
    x, y = (
        t[: MEMBERS * BATCH].view(MEMBERS, BATCH, -1).to(setting.device)
        for t in (model_inputs(*rows[:2]), model_target(rows))
    )
    stacks = {f"stacked{said}": DynamicsModel(ENSEMBLE, fast, OBS, ACT) for said, fast in settings.items()}
    alone = [DynamicsModel(SINGLE, setting, OBS, ACT) for _ in range(MEMBERS)]
    plain = [PlainNetwork().to(setting.device) for _ in range(MEMBERS)]
    return {
        **{name: partial(stack.update, x, y) for name, stack in stacks.items()},
        "ours, one after another": lambda: [m.update(x[i : i + 1], y[i : i + 1]) for i, m in enumerate(alone)],
        "plain, one after another": lambda: [m.update(x[i], y[i]) for i, m in enumerate(plain)],
    }


# --- rollouts ---------------------------------------------------------------------------------------------------------


def rollout(rows: Batch, config: DynamicsConfig, setting: Setting) -> Way:
    """Return a call of 100,000 one-step rollouts with a policy of 2×256 and Walker2d's rule of termination."""
    generator = torch.Generator().manual_seed(0)
    model = DynamicsModel(config, setting, OBS, ACT)
    policy = TanhGaussianPolicy(OBS, ACT, (256, 256), generator=generator).to(setting.device)
    imagination = Imagination(ImaginationConfig(), setting, OBS, ACT)
    real = Replay(ROWS, OBS, ACT, generator, setting.device)
    real.push(Batch(*(field.to(setting.device) for field in rows)))
    return lambda: imagination.roll_out(policy, model, real)


# --- timing -----------------------------------------------------------------------------------------------------------


def measure(ways: dict[str, Way], repeat: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Return the median CPU milliseconds, and the median and the least wall-clock time, of each way; all take turns."""
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(repeat):
        for name, call in ways.items():
            began, began_cpu = time.perf_counter(), time.process_time()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            took[name].append((time.process_time() - began_cpu, time.perf_counter() - began))
    return {name: summary(*zip(*pairs, strict=True)) for name, pairs in took.items()}


def summary(cpu: tuple[float, ...], wall: tuple[float, ...]) -> dict[str, float]:
    times = {"cpu": statistics.median(cpu), "wall": statistics.median(wall), "least_wall": min(wall)}
    return {name: round(1000 * seconds, 3) for name, seconds in times.items()}


@dataclass
class Options:
    """How often and where to measure."""

    repeat: int = 3
    """Training calls and rollouts of each way."""
    epochs: int = 3
    """Epochs of a training call."""
    updates: int = 100
    """Single updates of each way."""
    threads: tuple[int, ...] = (1,)
    """Numbers of CPU threads to measure with."""
    device: str = "cpu"
    """cpu or cuda."""
    compile: bool = False
    """Measure also what torch.compile makes of the updates."""


def measure_all(options: Options, rows: Batch) -> dict[str, dict[str, dict[str, float]]]:
    """Return the times of single updates, of training calls and of rollouts, each once warm."""
    device = torch.device(options.device)
    settings = fast_settings(device, options.compile)
    works = {
        "update": (single_updates(rows, settings), options.updates),
        "training_call": (training_calls(rows, options.epochs, settings), options.repeat),
        "rollouts": (
            {
                "1 member": rollout(rows, SINGLE, settings[""]),
                "7 members, 5 elites": rollout(rows, ENSEMBLE, settings[""]),
            },
            options.repeat,
        ),
    }
    for ways, _ in works.values():
        measure(ways, 1, device)  # kernels are chosen and compiled, graphs are recorded
    return {work: measure(ways, times, device) for work, (ways, times) in works.items()}


def main(options: Options) -> None:
    began = time.perf_counter()
    torch.manual_seed(0)
    rows = make_rows()
    figures: dict[str, Any] = {"rows": ROWS, "epochs": options.epochs}
    for count in options.threads:
        torch.set_num_threads(count)
        figures[f"{count} thread{'s' * (count > 1)}"] = measure_all(options, rows)
    name = "dynamics_speed" + ("_gpu" if options.device == "cuda" else "")
    record(name, figures, began=began, seeds=[0])


if __name__ == "__main__":
    main(tyro.cli(Options))
