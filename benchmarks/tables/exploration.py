"""Tables of HNPG and NORA."""

from __future__ import annotations

from tables.markdown import Result, by_name, markdown, number, thousands


def hnpg_lock(result: Result) -> str:
    """Return, a lock and method, when each seed was solved and how it ended."""
    rows = [
        (
            job,
            cell["seeds"],
            f"{cell['curve']['env_steps'][-1] // 1000}k",
            " ".join(thousands(steps) for steps in cell["solved_at"]),
            " ".join(thousands(steps) for steps in cell["first_above_half"]),
            " ".join(number(rate, 2) for rate in cell["last10_success"]),
            number(max(cell["last10_on_policy_loss"]), 3),
            number(max(cell["last10_offline_loss"]), 3) if "last10_offline_loss" in cell else "",
            number(max(cell["largest_kl"]), 4) if "largest_kl" in cell else "",
            number(cell["cpu_seconds"]),
            f"`{cell['commit'][:10]}`",
        )
        for job, cell in result["jobs"].items()
    ]
    losses = ("on-policy loss", "offline loss", "largest KL")
    last = ("success, last 10 iterations", *losses, "CPU s", "commit")
    return markdown(("lock / method", "seeds", "samples", "solved at (MA50)", "first above ½", *last), rows)


def nora_deep(result: Result) -> str:
    """Return, per job, when each seed first succeeded, how it ended and how often its critic was refreshed."""
    rows = [
        (
            job,
            cell["episodes"],
            " ".join(map(str, (first or "never" for first in cell["first_success"]))),
            " ".join(number(total, 2) for total in cell["last20"]),
            " ".join(map(str, cell["refreshes"])) if any(cell["refreshes"]) else "",
            " ".join(number(seconds) for seconds in cell["cpu_seconds"]),
        )
        for job, cell in result["jobs"].items()
    ]
    header = ("task", "episodes", "first success in episode", "return, last 20 episodes", "refreshes", "CPU s")
    return markdown(header, rows)


def hnpg_speed(result: Result) -> str:
    """Return CPU seconds of an outer iteration, and each as a multiple of one stacked seed."""
    names = {
        "plain": "plain loop, V(s) sample by sample",
        "plain_batched_values": "plain loop, V(s) in batches",
        "stacked_1_seeds": "stacked, 1 seed",
        "stacked_2_seeds": "stacked, 2 seeds",
        "stacked_5_seeds": "stacked, 5 seeds",
    }
    seconds = result["cpu_seconds"]
    one = seconds["stacked_1_seeds"]
    rows = [(text, number(seconds[name], 3), number(seconds[name] / one, 2)) for name, text in names.items()]
    return markdown(("one outer iteration, H = 10, batch 1000", "CPU seconds", "ratio"), rows)


def hnpg_stationary(result: Result) -> str:
    """Return each seed's mean return at every evaluation."""
    places = len(next(iter(result["returns"]["hnpg"].values())))
    rows = [
        (agent, *(" ".join(number(curve[i]) for curve in curves.values()) for i in range(places)))
        for agent, curves in result["returns"].items()
    ]
    rows.append(("the data", *[number(result["data_return"])] * places))
    return markdown(("agent", *(f"at {(i + 1) * 20}k" for i in range(places))), rows)


def nora_regret(result: Result) -> str:
    """Return, per cell, the regret, the reference, the regret per episode at the end, the slope and the switches.

    The reference: docs/derivations/nora.md §12.1, docs/derivations/nora.md §12.2 and docs/derivations/nora.md §12.3.
    """
    rows = [
        (
            name,
            cell["episodes"],
            f"{figure(cell['regret']['mean'])} ± {figure(cell['regret']['error'])}",
            f"{figure(cell['regret']['low'])} … {figure(cell['regret']['high'])}",
            number(cell["reference"], 1 if (cell["reference"] or 0) % 1 else 0),
            number(cell["last_tenth"]["mean"], 3),
            number(cell["slope"], 2),
            f"{number(cell['switches']['low'])} … {number(cell['switches']['high'])}",
        )
        for name, cell in result["cells"].items()
    ]
    header = ("cell", "T", "regret", "range", "reference", "an episode, last tenth", "slope", "plans")
    return markdown(header, rows) + f"\n\n{result['replicates']} replicates each; mean ± standard error."


def figure(value: float) -> str:
    return number(value, 0 if abs(value) >= 100 else 1 if abs(value) >= 0.05 else 2)


def nora_tetris(result: Result) -> str:
    """Return the reward per step at the start and the end of every method, beside docs/derivations/nora.md §12.4."""
    rows = [
        (
            name,
            number(cell["reward_a_step"][0], 3),
            number(cell["reward_a_step"][1], 3),
            number(cell["reference"], 3),
            f"{number(cell['switches']['low'])} … {number(cell['switches']['high'])}",
            number(cell["greedy"], 2),
            number(cell["reference_greedy"], 1),
        )
        for name, cell in result["cells"].items()
    ]
    header = (
        "method",
        "reward per step, first 10 episodes",
        "last 50",
        "reference, last 50",
        "plans",
        "V of the last greedy policy",
        "reference",
    )
    return markdown(header, rows) + f"\n\n{result['replicates']} replicates each; greedy: of the first."


def nora_speed(result: Result) -> str:
    """Return the seconds of one call and of the loops over seeds, and how many times ours theirs are."""
    names = {
        "one_call": f"{result['seeds_in_one_call']} seeds in one call",
        "numpy_loop": "NumPy loop over as many seeds, vectorised over states",
        "plain_loop": "NumPy loop over as many seeds, one state and action at a time",
    }
    rows = [
        (
            text,
            number(result[name]["seconds"], 1),
            number(result[name]["cpu_seconds"], 1),
            number(result[name]["cpu_seconds"] / result["one_call"]["cpu_seconds"], 1),
            number(result[name]["regret"], 1),
        )
        for name, text in names.items()
    ]
    return markdown(("path", "seconds", "CPU seconds", "ratio", "regret"), rows)


TABLES = by_name(hnpg_lock, hnpg_speed, hnpg_stationary, nora_deep, nora_speed, nora_tetris) | {
    "nora_long": nora_regret,
    "nora_short": nora_regret,
}
