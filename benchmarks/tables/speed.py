"""Tables of speed: updates, whole runs, worlds."""

from __future__ import annotations

from typing import Any

from tables.markdown import Result, by_name, markdown, number, spread


def throughput(result: Result) -> str:
    """Return speeds of SAC, ours and its peers', and of the replay."""
    training, replay = result["training"], result["replay"]
    peers, sample = training["versions_of_peers"], replay["microseconds"]
    names = {
        "ours": "Surefoot, native engine",
        "bf16": "Surefoot, `--precision bf16`",
        "eager": "Surefoot, `--engine eager`",
        "sb3": f"Stable-Baselines3 {peers.get('sb3', '')}",
        "sbx": f"SBX {peers.get('sbx', '')} (JAX)",
        "floor": "the matrix products of one update alone, by PyTorch",
    }
    compared = {"ratio_to_ours": "time ÷ ours, of each round", "ratio_to_bf16": "time ÷ ours in bf16"}
    rows: list[tuple[Any, ...]] = []
    for name, label in names.items():
        if name not in training["milliseconds_per_step"]:
            continue
        ratios = [spread(training[to][name]) if name in training.get(to, {}) else "" for to in compared]
        rows.append(
            (label, training["steps_per_second"].get(name, ""), training["milliseconds_per_step"][name], *ratios)
        )
    threads = f"SAC on HalfCheetah-v5, {training['threads']} thread{'s' * (training['threads'] > 1)}"
    cpu = "CPU " * (training["threads"] == 1)
    parts, in_bf16 = (parts_of(training.get(f"milliseconds_of_{name}", {})) for name in ("ours", "bf16"))
    table = markdown((threads, f"steps per {cpu}second", f"{cpu}ms per step", *compared.values()), rows)
    in_bf16 = f" In bf16: {in_bf16}." if in_bf16 else ""
    notes = f"Medians of {training['rounds']} rounds. Of our step, {cpu}ms: {parts}.{in_bf16}"
    of_rows = f"A sample of 256 from a replay of a million rows ({replay['megabytes']} MB) takes {sample['ours']} µs"
    return f"{table}\n\n{notes} {of_rows}, Stable-Baselines3's {sample['sb3']}."


def parts_of(milliseconds: Result) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in milliseconds.items())


def engine_speed(result: Result) -> str:
    """Return the time per update of every agent: eager, native, its floor, and with products in bf16."""
    rows = [
        (
            name,
            of["eager"],
            of["native"],
            spread(of, "ratio"),
            of["floor"],
            spread(of["above_floor"], "ratio"),
            of.get("native-bf16", ""),
            bf16_of(of),
        )
        for name, of in result["agents"].items()
    ]
    header = (
        "CPU ms per update, one thread",
        "eager",
        "native",
        "eager ÷ native, of each round",
        "floor",
        "native ÷ floor",
        "bf16",
        "native ÷ bf16",
    )
    return markdown(header, rows)


def bf16_of(figures: Result) -> str:
    return spread(figures["bf16"], "ratio") if "bf16" in figures else ""


def seed_stack(result: Result) -> str:
    """Return the steps per second of seeds side by side, and in turn."""
    rows = [
        (name, of["seeds"], of["in_turn"], of["stacked"], f"{of['ratio']} ({of['low']} to {of['high']})")
        for name, cases in result["jobs"].items()
        for of in cases
    ]
    header = ("", "seeds", "updates per CPU second, in turn", "one stacked update", "ratio, of each round")
    return markdown(header, rows)


def checkpoints(result: Result) -> str:
    """Return what a checkpoint with a large replay costs, in blocks and whole."""
    names = {"blocks": "in blocks", "whole": "all rows in every file"}
    rows = [
        (name, f"{of['cpu_seconds']} ({of['least']} to {of['most']})", of["megabytes"], of["loading"])
        for name, of in ((names[way], result[way]) for way in names)
    ]
    header = (f"a replay of {result['rows']:,} rows", "CPU-seconds to save", "MB written", "CPU-seconds to load")
    return markdown(header, rows)


def start(result: Result) -> str:
    """Return what every command costs before it does anything."""
    of_torch = result["cpu_seconds"]["`import torch`"]["median"]
    rows = [
        (name, of["median"], f"{of['least']} to {of['most']}", f"{of['median'] / of_torch:.2f}")
        for name, of in result["cpu_seconds"].items()
    ]
    return markdown(("CPU-seconds", "median", "least to most", "÷ `import torch`"), rows)


PARTS_OF_LOOP = {
    "bare environment": "`gymnasium.make`, a bare step",
    "environment": "the environment's step",
    "interaction": "sums of the running episode",
    "act": "act",
    "push": "push",
    "sample": "sample",
    "step": "noise of the update, and the agent's Python",
    "meter": "metrics",
    "around": "all but the update",
    "update": "update",
}


def loop_parts(result: Result) -> str:
    """Return what the parts of a step cost after an update and without updates, and how they compare to a bare task."""
    taken, ratio = result["microseconds"], result["ratio_to_bare"]
    rows = [
        (
            name,
            spread(taken[part]["without"]) if part != "update" else "",
            spread(taken[part]["with"]),
            spread(ratio[part]["with"]) if part in ratio else "",
        )
        for part, name in PARTS_OF_LOOP.items()
    ]
    return markdown(("CPU µs", "without updates", "after an update", "÷ the bare step, of each round"), rows)


def data_reading(result: Result) -> str:
    """Return what reading a large file of recorded data costs."""
    took = f"{result['cpu_seconds']} ({result['least']} to {result['most']})"
    header = ("rows", "CPU-seconds to read them", "growth of peak memory ÷ what they take")
    return markdown(header, [(f"{result['rows']:,}", took, result["peak"])])


def grid_speed(result: Result) -> str:
    """Return the speeds over a grid, in parallel and one environment after another, in wall-clock and CPU time."""
    rows: list[tuple[Any, ...]] = []
    for name, speed in result["steps_a_second"].items():
        ratio = result["ratio"].get(name.removeprefix("grid, ").removesuffix(" threads"), {"wall": 1, "cpu": 1})
        name = name.replace(" 1 threads", " 1 thread")
        rows.append((name, speed["wall"], ratio["wall"], speed["cpu"], ratio["cpu"], speed["cores"]))
    physics = result["mujoco_rollout_physics_only"]
    rows.append(("`mujoco.rollout`, physics only", physics["wall"], "", physics["cpu"], "", physics["cores"]))
    memory = "; ".join(f"{grid}: {peak} MB" for grid, peak in result["peak_mb"].items())
    speeds = ("steps per second", "ratio", "steps per CPU second", "ratio", "cores it got")
    header = ("HalfCheetah, 10 x 10 points", *speeds)
    return markdown(header, rows) + f"\n\nLargest process with a grid of {memory}."


def worlds(result: Result) -> str:
    """Return the speed and memory of both backends against the number of worlds; of a CPU by its own time alone."""
    parts, gpu = result["parts"], result["device"] != "CPU"
    speed = "steps_per_second" if gpu else "steps_per_cpu_second"
    unit = "control steps per second" if gpu else "control steps per second of CPU time"
    header = (
        f"HalfCheetah on {result['device']}, backend",
        "worlds",
        unit,
        "GPU MB" if gpu else "peak MB of the process",
    )
    rows = [
        (part["backend"], f"{part['worlds']:,}", f"{part[speed]:,}", part.get("gpu_mb", part.get("peak_mb")))
        for name, part in parts.items()
        if name.startswith("speed") and "error" not in part
    ]
    same, error = parts["determinism"]["the_same_bit_for_bit"], parts["equality"]["largest_error_after_10_steps"]
    notes = [
        f"Largest error against C after ten steps {error:.0e}",
        f"two runs {'the same' if same else 'not the same'}",
    ]
    if "cpu_seconds" in parts["compile"] and parts["compile"]["fresh_cache"]:
        notes.append(f"{parts['compile']['cpu_seconds']} s of CPU time until the first step, kernels compiled")
    return markdown(header, rows) + f"\n\n{'; '.join(notes)}."


def worlds_against_c(result: Result) -> str:
    """Return how the difference of Warp to C grows beside C's to itself, where it arises, and what Newton does."""

    def of(part: str) -> list[tuple[str, dict[str, Any]]]:
        return [(name.removeprefix(f"{part}, "), one) for name, one in result["jobs"].items() if part in name]

    rows = []
    for name, one in of("growth"):
        at = [f"{one[who][step]:.0e}" for who in ("warp", "c_rounded") for step in (1, 10, 40)]
        ratios = (one["size_ratio"], one["growth_ratio"])
        both = f"{one['size_ratio_with_mass']:.1f}"
        rows.append((name, *at, *(f"{x:.1f}" for x in ratios), "yes" if min(ratios) <= 2 else "**no**", both))
    header = ("Warp to C after 1 step", "10", "40", "C to itself, rounded, after 1", "10", "40")
    more = ("most times as large", "most times the growth", "one is at most 2", "as large as C, its mass too")
    tables = [markdown(("task", *header, *more), rows), _rounding(of("rounding"))]
    return "\n\n".join([*tables, *(_solvers(name, one) for name, one in of("solvers"))])


def _rounding(jobs: list[tuple[str, dict[str, Any]]]) -> str:
    """Return what one physics step changes differently in Warp, and in C with one thing rounded."""
    causes = ("condition", "acceleration")
    who = ("mass_error", "warp", "with_warps_mass", "with_single_mass", "rounded_state")
    forces = ("distance_error", "forces_warp", "forces_with_both")
    rows = [
        (
            name,
            *(f"{one[key]:,.0f}" for key in causes),
            *(f"{one[key]:.1e}" if key in one else "–" for key in (*who, *forces)),
        )
        for name, one in jobs
    ]
    of_mass = ("condition of the mass matrix", "largest acceleration", "Warp's mass matrix off by")
    changes = ("C with Warp's mass matrix", "C, mass matrix rounded to single precision", "C, state rounded by 1e-7")
    contacts = ("contacts off by (m)", "outer forces off C: Warp", "C with Warp's mass matrix and contacts")
    return markdown(("task", *of_mass, "a physics step off C: Warp", *changes, *contacts), rows)


def _solvers(name: str, one: dict[str, Any]) -> str:
    """Return what a policy earns with each solver, and how far one control step leads from C with Newton."""

    def spread(mean: float, error: float) -> str:
        return f"{number(mean, 1)} ± {error:.1f}"

    step, rows = one["one_step"], []
    for who in dict.fromkeys([*one["returns"], *(key for key in step if "," in key)]):
        earned, apart = one["returns"].get(who), step.get(who, {})
        means = [spread(*earned["mean"]), spread(*earned["less_c_with_pgs"])] if earned else ["", ""]
        steps = [" / ".join(f"{x:.0e}" for x in apart.get(part) or ()) for part in ("contact", "none")]
        rows.append((who, *means, *steps))
    touching = f"from {step['in_contact']} states in contact", f"from {step['states'] - step['in_contact']} without"
    header = (f"{name}, {one['episodes']} episodes", "mean return ± standard error", "less C, PGS, from the same start")
    return markdown((*header, *(f"velocity off C, Newton, a step {where} (median / 95%)" for where in touching)), rows)


def sweep_overhead(result: Result) -> str:
    """Return the seconds of the same runs by hand and by each engine, as multiples of the ideal."""
    hand = result["by_hand"]
    rows = [("half the sum of the runs: the ideal", number(hand["ideal"]), "1")]
    rows.append(("by hand, two at a time", number(hand["seconds"]), number(hand["seconds"] / hand["ideal"], 2)))
    for engine in ("local", "ray"):
        if engine in result:
            cell = result[engine]
            rows.append((f"`--engine {engine}`, start-up included", number(cell["seconds"]), number(cell["ratio"], 2)))
    return markdown((f"{result['runs']} runs of {number(hand['a_run'])} s", "seconds", "ratio"), rows)


def stress_speed(result: Result) -> str:
    """Return the cost of a map, of one environment after another, and the floor."""
    rows = [
        ("side by side", result["microseconds_of_cpu_a_step"], result["cpu_seconds"]),
        ("MuJoCo's step alone: the floor", *result["floor"].values()),
        ("one environment after another", result["one_by_one"]["microseconds_of_cpu_a_step"], ""),
    ]
    text = (
        f"By CPU time {result['ratio_of_cpu']} × as fast as one after another, by the clock {result['ratio_of_wall']} ×"
    )
    return (
        f"{markdown((result['map'], 'µs of CPU a step', 'CPU seconds'), rows)}\n\n{text} ({result['wall_seconds']} s)."
    )


TABLES = by_name(
    grid_speed,
    worlds,
    worlds_against_c,
    stress_speed,
    sweep_overhead,
    throughput,
    checkpoints,
    start,
    loop_parts,
    data_reading,
    engine_speed,
    seed_stack,
) | {"throughput_2_threads": throughput}
