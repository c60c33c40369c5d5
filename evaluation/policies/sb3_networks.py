"""The acting network of an archive, built from the names and shapes of its weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from surefoot.evaluation.policies.sb3_archives import Archive, Unreadable

ACTIVATIONS = {
    layer.__name__: layer
    for layer in (
        *(nn.ReLU, nn.Tanh, nn.ELU, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Softplus, nn.Mish, nn.SELU),
        *(nn.CELU, nn.ReLU6, nn.Hardtanh, nn.Identity),
    )
}
NOT_ACTING = r"(value_net|mlp_extractor\.value_net|vf_features_extractor|sde_features_extractor|log_std)(\.|$)"
Network = Callable[[Tensor], Tensor]  # observations (N, obs) as the library hands them on -> (N, act) or (N,) numbers


class Weights:
    """A state dict of which every tensor that acts must be used."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors, self.used = tensors, set[str]()

    def take(self, name: str) -> Tensor | None:
        self.used.add(name)
        return self.tensors.get(name)

    def within(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self.tensors)

    def require_all_used(self, acting: Callable[[str], bool]) -> None:
        if left := sorted(name for name in self.tensors if acting(name) and name not in self.used):
            raise Unreadable(f"weights {left[0]!r} belong to no network that is known")


def build(archive: Archive, device: torch.device | str = "cpu") -> Network:
    """Return the deterministic policy: actions in [-1, 1] over the archive's bounds, or numbers of Discrete actions.

    Raises:
        Unreadable: a network that is not known, or that does not agree with what the archive says of it.
    """
    builders = {"TD3": _deterministic, "DDPG": _deterministic, "DQN": _values, "QRDQN": _quantiles, "ARS": _linear}
    builders |= {"SAC": _gaussian, "TQC": _gaussian}
    weights = Weights(archive.weights)
    trunk, head = builders.get(archive.algorithm, _actor_critic)(archive, weights)
    preprocess, inputs = _input(archive)
    network = nn.Sequential(*trunk, *head).eval()
    made = _outputs(network, inputs)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
        if not bool(parameter.isfinite().all()):
            raise Unreadable("holds weights that are not finite")
    finish = _finish(archive, network.to(device), made)
    return lambda obs: finish(network(preprocess(obs)))


# --- by algorithm -----------------------------------------------------------------------------------------------------

Built = tuple[Sequence[nn.Module], Sequence[nn.Module]]


def _gaussian(archive: Archive, weights: Weights) -> Built:
    """SAC and TQC: the mean, squashed. With state-dependent exploration it was clipped before that."""
    weights.require_all_used(lambda name: not re.match(r"(actor|critic|critic_target|log_ent_coef)\b", name))
    layers = [*_features(weights, "actor."), *_mlp(weights, "actor.latent_pi", archive, "ReLU", "pi")]
    explores_by_state = weights.within("actor.mu.0.")
    head: list[nn.Module] = [_linear_layer(weights, "actor.mu.0" if explores_by_state else "actor.mu")]
    if explores_by_state and (clip := _number(archive, "clip_mean", 2.0)) > 0:
        head.append(nn.Hardtanh(-clip, clip))
    acting = r"actor\.(?!log_std|sde_features_extractor)"
    weights.require_all_used(lambda name: bool(re.match(acting, name)))
    return layers, [*head, nn.Tanh()]


def _deterministic(archive: Archive, weights: Weights) -> Built:
    *hidden, last = _chain(weights, "actor.mu")
    layers = [*_features(weights, "actor."), *_with_activations(hidden, archive, "ReLU", "pi")]
    weights.require_all_used(lambda name: name.startswith("actor."))
    return layers, [last, nn.Tanh()]


def _values(archive: Archive, weights: Weights) -> Built:
    *hidden, last = _chain(weights, "q_net.q_net")
    layers = [*_features(weights, "q_net."), *_with_activations(hidden, archive, "ReLU", None)]
    weights.require_all_used(lambda name: name.startswith("q_net."))
    return layers, [last]


def _quantiles(archive: Archive, weights: Weights) -> Built:
    *hidden, last = _chain(weights, "quantile_net.quantile_net")
    layers = [*_features(weights, "quantile_net."), *_with_activations(hidden, archive, "ReLU", None)]
    weights.require_all_used(lambda name: name.startswith("quantile_net."))
    quantiles = int(_number(archive, "n_quantiles", 200))
    actions = int(getattr(archive.action, "n", 0))
    if last.out_features != quantiles * actions:
        raise Unreadable(f"{last.out_features} outputs, not {quantiles} quantiles of {actions} actions")
    return layers, [last, nn.Unflatten(1, (quantiles, actions)), _Mean()]


def _linear(archive: Archive, weights: Weights) -> Built:
    """ARS: a linear map, by its first versions without a number in its name, or a small network."""
    boxed = isinstance(archive.action, gym.spaces.Box)
    layers: list[nn.Module] = []
    if "action_net.weight" in archive.weights:
        last, squash = _linear_layer(weights, "action_net"), False
    else:
        *hidden, last = _chain(weights, "action_net")
        layers = _with_activations(hidden, archive, "ReLU", None)
        squash = "ARSLinearPolicy" not in str(archive.data["policy_class"].get("__init__"))
    weights.require_all_used(lambda name: True)
    squash = bool(archive.kwargs.get("squash_output", squash)) and boxed
    return layers, [last, nn.Tanh()] if squash else [last]


def _actor_critic(archive: Archive, weights: Weights) -> Built:
    """PPO, A2C and TRPO; before version 1.8 their first layers could be shared with the value function."""
    own = "pi_features_extractor." if weights.within("pi_features_extractor.") else "features_extractor."
    layers = _features(weights, own.removesuffix("features_extractor."))
    weights.used |= {name for name in archive.weights if name.startswith("features_extractor.")}  # the same again
    hidden = [layer for part in ("shared_net", "policy_net") for layer in _chain(weights, f"mlp_extractor.{part}")]
    shared = weights.within("mlp_extractor.shared_net.")
    layers += _with_activations(hidden, archive, "Tanh", None if shared else "pi", check=not shared)
    last = _linear_layer(weights, "action_net")
    weights.require_all_used(lambda name: not re.match(NOT_ACTING, name))
    return layers, [last, nn.Tanh()] if archive.kwargs.get("squash_output") is True else [last]


# --- pieces -----------------------------------------------------------------------------------------------------------


class _Mean(nn.Module):
    def forward(self, quantiles: Tensor) -> Tensor:
        return quantiles.mean(1)


def _mlp(weights: Weights, prefix: str, archive: Archive, usual: str, part: str | None) -> list[nn.Module]:
    return _with_activations(_chain(weights, prefix), archive, usual, part)


def _chain(weights: Weights, prefix: str) -> list[nn.Linear]:
    """Return the linear layers named `prefix.0`, `prefix.2`, …; between them are activations."""
    layers: list[nn.Linear] = []
    while f"{prefix}.{2 * len(layers)}.weight" in weights.tensors:
        layers.append(_linear_layer(weights, f"{prefix}.{2 * len(layers)}"))
    return layers


def _linear_layer(weights: Weights, name: str) -> nn.Linear:
    weight, bias = weights.take(f"{name}.weight"), weights.take(f"{name}.bias")
    if weight is None or weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        raise Unreadable(f"no linear layer {name!r}")
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.float())
    if bias is not None:
        layer.bias = nn.Parameter(bias.float())
    return layer


def _with_activations(
    layers: Sequence[nn.Linear], archive: Archive, usual: str, part: str | None, *, check: bool = True
) -> list[nn.Module]:
    """Return hidden layers with an activation after each, after comparing their sizes with `net_arch`."""
    stated = _stated_sizes(archive.kwargs.get("net_arch"), part)
    sizes = [layer.out_features for layer in layers]
    if check and stated is not None and stated != sizes:
        raise Unreadable(f"its weights have hidden layers {sizes}, its settings say {stated}")
    activation = _activation(archive, usual)
    return [module for layer in layers for module in (layer, activation())]


def _stated_sizes(net_arch: Any, part: str | None) -> list[int] | None:
    """Return the hidden sizes that `net_arch` gives the acting network; None where it does not say."""
    if isinstance(net_arch, list) and net_arch and isinstance(net_arch[-1], dict):
        return _stated_sizes(net_arch[-1], part) if len(net_arch) == 1 else None  # the others are shared
    if isinstance(net_arch, dict):
        net_arch = net_arch.get(part)
    return net_arch if isinstance(net_arch, list) and all(isinstance(size, int) for size in net_arch) else None


def _activation(archive: Archive, usual: str) -> Callable[[], nn.Module]:
    stated = archive.kwargs.get("activation_fn")
    found = re.fullmatch(r"<class 'torch\.nn\.modules\.activation\.(\w+)'>", str(stated))
    name = found[1] if found else usual if stated is None else ""
    if name not in ACTIVATIONS:
        raise Unreadable(f"its activation is {str(stated)[:80]}; known are those of torch.nn without parameters")
    return ACTIVATIONS[name]


def _features(weights: Weights, prefix: str) -> list[nn.Module]:
    """Return the convolutions of the library's `NatureCNN` where the weights have them; else nothing."""
    name = f"{prefix}features_extractor"
    if not weights.within(f"{name}."):
        return []
    layers: list[nn.Module] = []
    for place, stride in ((0, 4), (2, 2), (4, 1)):
        layers += [_convolution(weights, f"{name}.cnn.{place}", stride), nn.ReLU()]
    return [*layers, nn.Flatten(), _linear_layer(weights, f"{name}.linear.0"), nn.ReLU()]


def _convolution(weights: Weights, name: str, stride: int) -> nn.Conv2d:
    weight, bias = weights.take(f"{name}.weight"), weights.take(f"{name}.bias")
    kernel = {4: 8, 2: 4, 1: 3}[stride]
    if weight is None or bias is None or weight.shape[2:] != (kernel, kernel) or bias.shape != weight.shape[:1]:
        raise Unreadable(f"its features are of no NatureCNN: {name!r}")
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], kernel, stride)
    layer.weight, layer.bias = nn.Parameter(weight.float()), nn.Parameter(bias.float())
    return layer


def _input(archive: Archive) -> tuple[Network, tuple[int, ...]]:
    """Return what the library does to observations before the network, and the shape that it hands on."""
    space = archive.observation
    if isinstance(space, gym.spaces.Discrete):
        return lambda obs: obs, (int(space.n),)  # one-hot already, by --env.flatten
    shape = tuple(space.shape or ())
    if len(shape) != 3:
        return lambda obs: obs.flatten(1), (int(np.prod(shape)),)
    image = space.dtype == np.uint8 and archive.kwargs.get("normalize_images", True) is not False
    return lambda obs: obs.reshape(-1, *shape) / (255.0 if image else 1.0), shape


def _outputs(network: nn.Sequential, inputs: tuple[int, ...]) -> int:
    """Return how many numbers the network gives for what the archive's observation space shows.

    Raises:
        Unreadable: its layers do not follow one another, or the first does not take that.
    """
    try:
        with torch.inference_mode():
            return int(network(torch.zeros(1, *inputs)).shape[1])
    except RuntimeError as error:
        first = tuple(next(iter(network.parameters())).shape)
        raise Unreadable(
            f"its first layer {first} does not take observations {inputs}, or its layers do not follow one another"
        ) from error


def _finish(archive: Archive, network: nn.Sequential, made: int) -> Network:
    """Return the last step: the best of the Discrete actions, or Box ones in [-1, 1]."""
    space = archive.action
    wanted = int(space.n) if isinstance(space, gym.spaces.Discrete) else int(np.prod(space.shape or ()))
    if made != wanted:
        raise Unreadable(f"its network has {made} outputs, its action space {wanted}")
    if isinstance(space, gym.spaces.Discrete):
        return lambda values: values.argmax(1)
    if archive.algorithm in ("DQN", "QRDQN"):
        raise Unreadable("its actions are a Box, and values are for Discrete ones")
    assert isinstance(space, gym.spaces.Box)
    if not space.is_bounded():
        raise Unreadable("does not say the bounds of its actions")
    if isinstance(network[-1], nn.Tanh):
        return lambda squashed: squashed
    low, high = torch.from_numpy(space.low.ravel()), torch.from_numpy(space.high.ravel())
    return lambda own: 2 * (own.clamp(low.to(own), high.to(own)) - low.to(own)) / (high - low).to(own) - 1


def _number(archive: Archive, name: str, usual: float) -> float:
    value = archive.kwargs.get(name, usual)
    if not isinstance(value, int | float):
        raise Unreadable(f"its {name} is {str(value)[:80]}")
    return value
