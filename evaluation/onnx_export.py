"""A policy as an ONNX model: observations in the task's units in, actions in the task's units out.

What a policy does to observations and actions (normaliser, tanh, scale) is part of the graph. A policy with a memory
gets its state as further inputs and gives the next one back as further outputs: whoever runs it feeds them in again at
the next step, and `fresh` = 1 where an episode begins. The graph is traced by PyTorch's TorchScript exporter, and then
run against the policy itself before anything is written.
"""

from __future__ import annotations

import io
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from surefoot import agents
from surefoot.agents.distributional.dhn.equations import clamped
from surefoot.agents.distributional.dhn.policy import STARTS, StockPolicy
from surefoot.agents.distributional.objectives import next_stock
from surefoot.agents.interface import Policy
from surefoot.agents.iwocs.composite import Composite, remembered
from surefoot.agents.iwocs.models import CompositeAmongModels
from surefoot.envs import EnvConfig, make_vec
from surefoot.evaluation.episodes import Act, make_act
from surefoot.evaluation.loaded_policy import to_own_units
from surefoot.evaluation.policies import AnyPolicy
from surefoot.evaluation.policy_files import load_policy
from surefoot.evaluation.storage import write_atomically

CHECKED = 1_000  # observations that both must agree on
TOLERANCE = 1e-6  # of the largest action bound, or of 1
ROUNDINGS, COARSEST = 4, 1e-4  # times the effect of a last bit that two orders of summation may differ by, and the most
OPSET = 17


class Signature(NamedTuple):
    """Names and widths of inputs and outputs besides the observation and the action; a width of 0 is a number a row."""

    inputs: dict[str, int]
    outputs: dict[str, int]


class Stateless(nn.Module):
    """Actions of observations."""

    signature = Signature({}, {})

    def __init__(self, act: Act, own_action: gym.Space[Any]):
        super().__init__()
        self._act, self._own_action = act, own_action

    def forward(self, obs: Tensor) -> Tensor:
        return to_own_units(self._act(obs), self._own_action)


class Gated(nn.Module):
    """IWOCS's composite: its memory is the step before, by which predictors are judged, and a trace of their errors."""

    def __init__(self, composite: Composite, own_action: gym.spaces.Box, obs_dim: int):
        super().__init__()
        self._composite, self._own_action = composite, own_action
        widths = {"previous_obs": obs_dim, "previous_action": int(np.prod(own_action.shape))}
        trace = {"trace": len(composite.specialists) + 1} if composite.gate.memory else {}
        outputs = {f"next_{name}": width for name, width in (widths | trace).items()}
        self.signature = Signature({**widths, "fresh": 0, **trace}, outputs)

    def forward(self, obs: Tensor, before: Tensor, action: Tensor, fresh: Tensor, *trace: Tensor) -> tuple[Tensor, ...]:
        """Actions in between steps are in [-1, 1], as the predictors take them."""
        error, memory = self._composite.errors(before, action, obs), self._composite.gate.memory
        following = []
        for old in trace:  # (N, J + 1), where errors are remembered
            new, error = remembered(old.transpose(0, 1), error, fresh > 0, memory)
            following.append(new.transpose(0, 1) * 1.0)
        chosen, _ = self._composite.decide(obs, error, fresh > 0)
        return to_own_units(chosen, self._own_action), obs * 1.0, chosen * 1.0, *following


class AmongModels(nn.Module):
    """IWOCS's composite by `gate="models"`: its memory is the step before, each model's excess, and who acted."""

    def __init__(self, composite: CompositeAmongModels, own_action: gym.spaces.Box, obs_dim: int):
        super().__init__()
        self._composite, self._own_action = composite, own_action
        step = {"previous_obs": obs_dim, "previous_action": int(np.prod(own_action.shape))}
        memory = {"trace": len(composite.models.points), "who": 0}
        outputs = {f"next_{name}": width for name, width in (step | memory).items()}
        self.signature = Signature({**step, "fresh": 0, **memory}, outputs)

    def forward(
        self, obs: Tensor, before: Tensor, action: Tensor, fresh: Tensor, trace: Tensor, who: Tensor
    ) -> tuple[Tensor, ...]:
        """Actions in between steps are in [-1, 1], as the predictor takes them; `who` counts the specialists from 0."""
        taken, who, trace = self._composite.among(obs, before, action, fresh > 0, trace, who.long())
        return to_own_units(taken, self._own_action), obs * 1.0, taken * 1.0, trace * 1.0, who.float()


class Stocked(nn.Module):
    """DηN: its memory is the stock, which takes in the reward of the step before."""

    signature = Signature({"stock": 0, "reward": 0, "fresh": 0}, {"next_stock": 0})

    def __init__(self, stocked: StockPolicy):
        super().__init__()
        assert not isinstance(stocked.start, tuple), "`deployed` refuses several stocks"
        self._policy, self._start = stocked.policy, float(stocked.start or 0.0)

    def forward(self, obs: Tensor, stock: Tensor, reward: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor]:
        config = self._policy.config
        following = torch.where(fresh > 0, self._start, next_stock(stock, reward, config.gamma))
        now = clamped(following, config)
        return self._policy.greedy(obs, now)[0] + self._policy.first, now


def export(policy: AnyPolicy, out: Path, metadata: Mapping[str, Any], *, checkpoint: str | int = "latest") -> Path:
    """Write a policy as an ONNX model with `metadata` (values as JSON), after a comparison with the policy itself.

    They may differ by 1e-6 of the largest action bound, and by more where float32 is coarser.

    Raises:
        ValueError: a policy that is no network, or whose graph does not act as it does.
        ImportError: the extra `onnx` is not installed.
    """
    onnx, runtime = _packages()
    module = deployed(policy, checkpoint)
    content = _traced(module, policy)
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model)
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value if isinstance(value, str) else json.dumps(value)
    content = model.SerializeToString()
    difference = compare(runtime.InferenceSession(content, providers=["CPUExecutionProvider"]), module, policy)
    if math.isnan(difference):
        raise ValueError(
            f"{policy.label}: its actions, or those of its ONNX graph, are not finite; nothing was written. Choose an "
            "earlier --checkpoint"
        )
    if difference > TOLERANCE and difference > min(ROUNDINGS * rounding(module, policy), COARSEST):
        raise ValueError(
            f"{policy.label}: its ONNX graph gives other actions than the policy (by {difference:.2g} of their bound): "
            "this kind of policy cannot be exported; nothing was written"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, lambda file: file.write(content))
    return out


def deployed(policy: AnyPolicy, checkpoint: str | int = "latest") -> Any:
    """Return what is exported: a module of the observation and its state, with a `signature`."""
    act: Act = policy.act
    if policy.policy is not None:
        owner = _eager(Path(policy.label), checkpoint)
        if isinstance(owner, nn.Module):
            owner.requires_grad_(False)  # weights become constants of the graph
        act = make_act(owner)
    if isinstance(act, Composite):
        assert isinstance(policy.own_action, gym.spaces.Box)
        if isinstance(act, CompositeAmongModels):
            return AmongModels(act, policy.own_action, _width(policy))
        return Gated(act, policy.own_action, _width(policy))
    if isinstance(act, StockPolicy) and act.rewards:
        raise ValueError(f"{policy.label}: a policy with a stock for each of several rewards has no form in ONNX here")
    if isinstance(act, StockPolicy):
        act.start = act.start if act.start is not None else _best_start(act, policy.env_config)
        return Stocked(act)
    if hasattr(act, "reset"):
        raise ValueError(f"{policy.label}: the memory of {policy.agent_name} has no form in ONNX here")
    return Stateless(act, policy.own_action)


def _eager(path: Path, checkpoint: str | int) -> Policy:
    """Return a run's policy computed by PyTorch alone: an engine's kernels cannot be traced."""
    file = load_policy(path, checkpoint)
    fresh: Policy = agents.get(file.agent_name).make_policy(file.agent_config, file.spaces)
    fresh.load_state_dict(file.policy.state_dict())
    return fresh


def _best_start(act: StockPolicy, task: EnvConfig | None) -> float:
    """Return the initial stock that the outer search chooses over start states of the task."""
    assert task is not None
    env = make_vec(replace(task.in_c(), num_envs=STARTS, vectorization="sync"))
    obs, _ = env.reset(seed=0)
    env.close()
    stock = act.policy.outer(obs, act.objective).stock
    assert not isinstance(stock, tuple), "`deployed` refuses several stocks"
    return stock


def _width(policy: AnyPolicy) -> int:
    shape = policy.spaces.observation.shape
    if not isinstance(policy.spaces.observation, gym.spaces.Box) or shape is None or len(shape) != 1:
        raise ValueError(f"{policy.label}: observations are {policy.spaces.observation}; an export takes vectors")
    return int(shape[0])


def _traced(module: Any, policy: AnyPolicy) -> bytes:
    """Return the graph; the number of rows stays free."""
    inputs = draw_inputs(module, policy, 2, np.random.default_rng(0))
    names = list(inputs)
    outputs = ["action", *module.signature.outputs]
    text = io.BytesIO()
    settings: dict[str, Any] = {
        "input_names": names,
        "output_names": outputs,
        "dynamic_axes": {name: {0: "rows"} for name in [*names, *outputs]},
        "opset_version": OPSET,
        "dynamo": False,  # the other exporter needs a package more, and does the same for such small graphs
    }
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # on tracing, and that this exporter is the older one
            exporter: Any = torch.onnx.export  # whose types do not know that this one writes to a buffer, too
            exporter(module, tuple(inputs.values()), text, **settings)
    except (RuntimeError, TypeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
        why = " ".join(str(error).split())[:200]
        raise ValueError(f"{policy.label}: no network to export: {why}") from error
    return text.getvalue()


def draw_inputs(module: Any, policy: AnyPolicy, rows: int, generator: np.random.Generator) -> dict[str, Tensor]:
    """Return random inputs by name, (rows, width) or (rows,): observations within their bounds, else about 1."""
    space = policy.spaces.observation
    width = _width(policy)
    low, high = (np.clip(bound, -2.0, 2.0) for bound in (space.low, space.high))  # type: ignore[attr-defined]
    drawn: dict[str, Any] = {"obs": generator.uniform(low, np.maximum(high, low), (rows, width))}
    for name, size in module.signature.inputs.items():
        shape = (rows, size) if size else (rows,)
        drawn[name] = generator.integers(0, 2, shape) if name == "fresh" else generator.uniform(-1, 1, shape)
    return {name: torch.from_numpy(np.asarray(value)).float() for name, value in drawn.items()}


def compare(session: Any, module: Any, policy: AnyPolicy, rows: int = CHECKED) -> float:
    """Return the largest difference of any output on random inputs, in units of the largest action bound or 1.

    NaN where an action is not finite, or any output is NaN; a memory may be infinite in both.
    """
    inputs = draw_inputs(module, policy, rows, np.random.default_rng(1))
    with torch.no_grad():
        wanted = module(*inputs.values())
    taken = {one.name for one in session.get_inputs()}  # one that nothing depends on is not there
    if "obs" not in taken:
        raise ValueError(f"{policy.label}: no network to export: its graph does not depend on the observation")
    given = session.run(None, {name: value.numpy() for name, value in inputs.items() if name in taken})
    pairs = zip(given, wanted if isinstance(wanted, tuple) else (wanted,), strict=True)
    with np.errstate(invalid="ignore"):
        worst = [np.where(one == other.numpy(), 0.0, np.abs(one - other.numpy())).max() for one, other in pairs]
    finite = np.isfinite(given[0]).all()
    return float(np.max(worst)) / _bound(policy) if finite else math.nan  # Python's own `max` passes over NaN


def difference_of(path: Path, module: Any, policy: AnyPolicy) -> float:
    """Return the same of a model that was written."""
    _, runtime = _packages()
    return compare(runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"]), module, policy)


def rounding(module: Any, policy: AnyPolicy, rows: int = CHECKED) -> float:
    """Return how far actions move with the last bit of the same observations; 0 for a policy with a memory."""
    if module.signature.inputs:
        return 0.0
    obs = draw_inputs(module, policy, rows, np.random.default_rng(1))["obs"]
    bit = torch.finfo(obs.dtype).eps
    with torch.no_grad():
        moved = [(module(obs * (1 + change)) - module(obs)).abs().max() for change in (bit, -bit)]
    return float(max(moved)) / _bound(policy)


def _bound(policy: AnyPolicy) -> float:
    return max(1.0, float(np.abs(getattr(policy.own_action, "high", np.ones(1))).max()))


def _packages() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ImportError('ONNX is not installed: pip install "surefoot[onnx]"') from error
    return onnx, onnxruntime
