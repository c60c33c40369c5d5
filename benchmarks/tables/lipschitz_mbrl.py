"""Tables of model-based RL with a single model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tables.markdown import Result, by_name, markdown, number


def model_works(result: Result) -> dict[str, str]:
    """Return what is timed of a dynamics model, in words."""
    return {
        "update": "one update of 7 members",
        "training_call": f"a training call, {result['epochs']} epochs of {result['rows']} rows",
        "rollouts": "100 000 one-step rollouts",
    }


def dynamics_speed(result: Result) -> str:
    """Return the time of an update, of a training call and of a rollout in every way, relative to the stack's."""
    rows = []
    for threads in (name for name in result if name.endswith(("thread", "threads"))):
        for work, text in model_works(result).items():
            ways = result[threads][work]
            first = next(iter(ways.values()))
            for way, took in ways.items():
                ratios = [number(took[kind] / first[kind], 2) for kind in ("cpu", "least_wall")]
                rows.append((f"{text}: {way}", threads, number(took["cpu"]), number(took["wall"]), *ratios))
    header = ("milliseconds", "threads", "CPU", "wall", "CPU / first", "least wall / first")
    return markdown(header, rows)


def mbpo_update_speed(result: Result) -> str:
    """Return the time of an update in every variant relative to sd."""
    ways = result["milliseconds"]
    first = next(iter(ways.values()))
    rows = [(way, number(took["cpu"], 1), number(took["cpu"] / first["cpu"], 2)) for way, took in ways.items()]
    return markdown(("an update of batch 256", "CPU milliseconds", "ratio"), rows)


MBPO_VARIANTS = ("sd", "rr", "sn", "sp", "pe", "de")


def by_setting(result: Result) -> dict[str, list[Result]]:
    """Return the results of each variant or setting, seed by seed, variants first."""
    settings: dict[str, list[Result]] = {variant: [] for variant in MBPO_VARIANTS}
    for job in sorted(result["jobs"]):
        settings.setdefault(job.split("/")[1], []).append(result["jobs"][job])
    return {name: cells for name, cells in settings.items() if cells}


def span(values: Sequence[float], digits: int = 0) -> str:
    """Return median, least and most."""
    if len(values) == 1:
        return number(values[0], digits)
    return (
        f"{number(float(np.median(values)), digits)} ({number(min(values), digits)} to {number(max(values), digits)})"
    )


def lipschitz_mbrl_pendulum(result: Result) -> str:
    """Return variants, their expected directions (docs/derivations/lipschitz_mbrl.md §14.1), times, and the sweep."""
    settings = by_setting(result)
    variants = {name: cells for name, cells in settings.items() if name in MBPO_VARIANTS}
    sweep = {name: settings[name] for name in ("sd", "rr", "sn") if name in settings}
    sweep |= {name: cells for name, cells in settings.items() if name not in MBPO_VARIANTS}
    parts = [smoothness(variants, "variant"), directions(variants), times(variants), smoothness(sweep, "setting")]
    return "\n\n".join(part for part in parts if part)


def at(cell: Result, name: str, step: int) -> float:
    """Return what was measured after so many learned steps; NaN where the run did not get there."""
    return cell[name][cell["steps"].index(step)] if step in cell["steps"] else float("nan")


def between(cell: Result, name: str, first: int = 1000, last: int = 2500) -> float:
    """Return the mean of the measurements from one learned step to another."""
    return float(np.mean([x for step, x in zip(cell["steps"], cell[name], strict=True) if first <= step <= last]))


def smoothness(settings: dict[str, list[Result]], kind: str) -> str:
    """Return slopes, value-aware error and last return of each setting: median, least and most of its seeds."""
    slopes = {"lip_local": 0, "lip_upper": 2, "lip_ball": 0, "q_std": 0, "action_gap": 2}
    errors = {"value_aware_error": 2, "value_aware_error_relative": 2, "model_error": 3}
    rows = [
        (
            name,
            len(cells),
            *(span([at(cell, metric, 2000) for cell in cells], digits) for metric, digits in slopes.items()),
            *(span([between(cell, metric) for cell in cells], digits) for metric, digits in errors.items()),
            span([cell["returns"][-1] for cell in cells]),
        )
        for name, cells in settings.items()
    ]
    named = ("ln value-aware error", "relative to var V", "model error / std")
    return markdown((kind, "seeds", *(f"{name} at 2000" for name in slopes), *named, "last return"), rows)


def directions(variants: dict[str, list[Result]]) -> str:
    """Return what must come out beside what did, seed by seed: docs/derivations/lipschitz_mbrl.md §14.1."""
    if not {"sd", "rr", "sn", "sp", "pe"} <= set(variants):
        return ""

    def each(variant: str, name: str, of: Callable[[Result, str], float], minus: bool = False) -> str:
        pairs = zip(variants[variant], variants["sd"], strict=False)
        values = [of(a, name) - of(b, name) if minus else of(a, name) / of(b, name) for a, b in pairs]
        return " ".join(number(value, 2) for value in values)

    def at_2000(cell: Result, name: str) -> float:
        return at(cell, name, 2000)

    rows = [
        ("1. lip_local RR/SD at 2000", "≤ 0.8", each("rr", "lip_local", at_2000)),
        (
            "2. lip_upper SN at 2000",
            "3.30 ± 0.1",
            " ".join(number(at(c, "lip_upper", 2000), 2) for c in variants["sn"]),
        ),
        ("2. largest ‖∇Q‖ on D_env, SN", "≤ 29.7", " ".join(number(c["steepest_q"], 1) for c in variants["sn"])),
        *(
            (f"3. {name} {variant.upper()} − SD at 2000", "< 0", each(variant, name, at_2000, minus=True))
            for variant in ("pe", "sp")
            for name in ("lip_local", "lip_upper")
        ),
        ("4. ln value-aware error RR − SD", "< 0", each("rr", "value_aware_error", between, minus=True)),
        ("4. the same, SN − SD", "lower still", each("sn", "value_aware_error", between, minus=True)),
    ]
    return markdown(("direction", "expected", "by seed"), rows)


def times(variants: dict[str, list[Result]]) -> str:
    """Return CPU seconds of each variant by phase, and ratios of the sums over the seeds that both have."""
    phases: dict[str, Callable[[Result], float]] = {
        "all": lambda cell: cell["cpu_seconds"],
        "updates": lambda cell: cell["seconds"]["updates"],
        "rollouts": lambda cell: cell["seconds"]["rollouts"],
        "model": lambda cell: cell["seconds"]["model"],
        "epochs of the model": lambda cell: cell["model_epochs"],
        "model, ms per epoch": lambda cell: 1000 * cell["seconds"]["model"] / cell["model_epochs"],
    }
    rows: list[tuple[Any, ...]] = [
        (variant, *(span([of(cell) for cell in cells], int(phase == "rollouts")) for phase, of in phases.items()))
        for variant, cells in variants.items()
    ]
    for above, below in (("rr", "pe"), ("sd", "pe"), ("sn", "sd"), ("rr", "sd"), ("pe", "sd")):
        if above in variants and below in variants:
            pairs = list(zip(variants[above], variants[below], strict=False))
            ratios = [sum(of(a) for a, _ in pairs) / sum(of(b) for _, b in pairs) for of in phases.values()]
            rows.append((f"{above.upper()}/{below.upper()}", *(number(ratio, 2) for ratio in ratios)))
    return markdown(("CPU seconds", *phases), rows)


def lipschitz_mbrl_inverted_pendulum(result: Result) -> str:
    """Return when each run first had nothing but 1000, and every evaluation."""
    rows = []
    for setting, cells in by_setting(result).items():
        for seed, cell in enumerate(cells):
            steps = (f"{(i + 1) * cell['evaluate_every']}" for i, x in enumerate(cell["returns"]) if x == 1000)
            returns = " ".join(number(x) for x in cell["returns"])
            rows.append((f"{setting}, seed {seed}", next(steps, "never"), returns, number(cell["cpu_seconds"])))
    return markdown(("InvertedPendulum-v5", "first 1000 at step", "mean return at each evaluation", "CPU s"), rows)


# Mean returns of MBPO on Hopper at its first steps, from the logs of x35f/model_based_rl (Hopper-v3, one seed):
# docs/derivations/lipschitz_mbrl.md §12.
X35F_HOPPER = {6: 204, 7: 323, 8: 167, 9: 10, 10: 1003, 11: 1018, 12: 196, 13: 1003, 14: 241, 15: 331, 16: 223, 17: 332}


def lipschitz_mbrl_hopper(result: Result) -> str:
    """Return the returns of every run at each thousand steps and a log of another MBPO, then what was measured."""
    settings = by_setting(result)
    first = 6  # thousands of steps: the first 5000 are random
    longest = max(len(cell["returns"]) for cells in settings.values() for cell in cells)
    columns = range(first, longest + 1)
    rows = [("MBPO of x35f, 1 seed", *(X35F_HOPPER.get(k, "") for k in columns))]
    for variant, cells in settings.items():
        for k, cell in enumerate(cells):
            known = [number(x) for x in cell["returns"][first - 1 :]]
            rows.append((f"{variant}, seed {k}", *known, *[""] * (len(columns) - len(known))))
    table = markdown(("return at step", *(f"{k}k" for k in columns)), rows)
    return f"{table}\n\n{hopper_diagnostics(settings)}"


def hopper_diagnostics(settings: dict[str, list[Result]], step: int = 8000) -> str:
    """Return slopes and errors after as many learned steps as every run has, and seconds for 1000 of them."""
    slopes = {"lip_local": 0, "lip_upper": 2, "lip_ball": 0, "q": 0, "q_std": 0, "action_gap": 1, "model_error": 3}
    errors = ("value_aware_error", "value_aware_error_relative")
    rows = []
    for variant, cells in settings.items():
        learned = [(cell["env_steps"] - 5000) / 1000 for cell in cells]
        seconds = (
            " ".join(number(cell["seconds"][phase] / k, 1) for cell, k in zip(cells, learned, strict=True))
            for phase in ("updates", "model")
        )
        rows.append(
            (
                variant,
                *(" ".join(number(at(cell, name, step), digits) for cell in cells) for name, digits in slopes.items()),
                *(" ".join(number(between(cell, name, 1000, step), 2) for cell in cells) for name in errors),
                *seconds,
            )
        )
    header = ("", *(f"{name} at {step}" for name in slopes), "ln value-aware error", "relative to var V")
    return markdown((*header, "seconds of updates", "of the model, per 1000 steps"), rows)


def mbpo_update_speed_gpu(result: Result) -> str:
    """Return updates per second of every variant, eager, compiled and captured, and the speed-up over eager."""
    ways = result["milliseconds"]
    rows = []
    for way, took in ways.items():
        variant = way.split(", as a CUDA graph")[0].removesuffix(", compiled")
        rate = took["updates_per_second"]
        faster = number(rate / ways[variant]["updates_per_second"], 1)
        rows.append((way, number(took["wall"], 2), number(rate), faster))
    return markdown(("an update of batch 256", "milliseconds", "updates per second", "× eager"), rows)


def dynamics_speed_gpu(result: Result) -> str:
    """Return the time of an update, a training call and a rollout in every way, and the plain way's multiple of it."""
    rows = []
    for work, text in model_works(result).items():
        ways = result["1 thread"][work]
        plain = ways.get("plain, one after another")
        for way, took in ways.items():
            times = number(plain["wall"] / took["wall"], 1) if plain else ""
            rows.append((f"{text}: {way}", number(took["wall"], 1), times))
    return markdown(("", "milliseconds", "plain / this"), rows)


TABLES = by_name(
    lipschitz_mbrl_hopper,
    lipschitz_mbrl_inverted_pendulum,
    lipschitz_mbrl_pendulum,
    dynamics_speed,
    dynamics_speed_gpu,
    mbpo_update_speed,
    mbpo_update_speed_gpu,
)
