"""The page of a stress test: where policies hold, where they fail, and what was not tried, from its JSON alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from html import escape

import numpy as np

from surefoot.evaluation.describe import Record
from surefoot.evaluation.figures.caption import task_with_dynamics
from surefoot.evaluation.figures.words import parameter_label
from surefoot.evaluation.statistics import cvar
from surefoot.evaluation.stress.statistics import TAIL, Rank, ranks
from surefoot.training.report import stress_figures as figures
from surefoot.training.report.page import document, gallery, section, shown, table
from surefoot.training.report.stress_figures import nominal_in_words, nominal_of, where, worst_set

PARTS = ("nominal", "average", "worst")


def page(content: Record) -> str:
    """Return the HTML page of what `surefoot stress` wrote."""
    records = content["policies"]
    sections = [
        summary(records),
        _overview(records),
        _curves(records),
        *_maps(records),
        _worst_points(records),
        *_moments(records),
        _failures(records),
        _untried(content),
        _method(content),
    ]
    names = ", ".join(record["name"] for record in records)
    return document(f"Stress test of {names} on {records[0]['env']['id']}", sections)


# --- numbers ----------------------------------------------------------------------------------------------------------


def with_interval(sample: Record) -> str:
    """Return a mean and its interval as HTML."""
    if sample["interval"] is None:
        return f'{shown(sample["mean"])} <span class="soft">1 episode: no interval</span>'
    low, high = map(shown, sample["interval"])
    return f'{shown(sample["mean"])} <span class="soft">[{low}, {high}]</span>'


def parts_of(record: Record) -> dict[str, Record]:
    """Return the samples that a policy is judged by: at the nominal point of its worst set, over it, at its worst."""
    box = worst_set(record)
    return {"nominal": nominal_of(record, box)[0], "average": box["average"], "worst": box["worst"]}


def radius_in_words(radius: Record | None) -> str:
    """Return how far a parameter may go: where the return crosses, or that it never does."""
    if radius is None:
        return "not tried"
    spread = "" if radius["interval"] is None else " [{:.3g}, {:.3g}]".format(*radius["interval"])
    if not radius["crossed"]:
        return f"holds to the end, {radius['value']:.4g}"
    return f"{radius['distance']:.3g}{spread}, at {radius['value']:.4g}"


# --- sections ---------------------------------------------------------------------------------------------------------


def summary(records: Sequence[Record]) -> str:
    """Return what a reader must know, a paragraph a policy."""
    lines = []
    for record in records:
        box, parts = worst_set(record), parts_of(record)
        failed, episodes = box["worst"]["ended_early_low"] + box["worst"]["diverged"], box["worst"]["episodes"]
        ends = f"; {failed} of its {episodes} episodes ended early with a low return or diverged" if failed else ""
        lines.append(
            f"<p><strong>{escape(record['name'])}</strong> returns {with_interval(parts['nominal'])} "
            f"{escape(nominal_in_words(parts['nominal']))}, {with_interval(parts['average'])} on average over "
            f"{escape(box['name'])}, and {with_interval(parts['worst'])} at the worst point found: "
            f"{escape(where(box['worst']['at']))}{ends}.</p>"
        )
    count = sum(episodes_of(records[0]).values())
    task = escape(task_with_dynamics(records[0]["env"]))
    note = (
        f"<p class='soft'>{task}. {count:,} episodes per policy; in brackets 95% intervals. The worst point was chosen "
        "on other episodes than those that its return is measured by.</p>"
    )
    return "\n".join([*lines, note])


def episodes_of(record: Record) -> dict[str, int]:
    """Return the episodes that stand behind each part, over all sets."""
    counts = {"nominal": sum(sample["episodes"] for sample in nominals_of(record))}
    for box in record["sets"]:
        for part, count in box["episodes"].items():
            counts[part] = counts.get(part, 0) + count
    return counts


def nominals_of(record: Record) -> list[Record]:
    """Return the samples at the different nominal points, that of the first set first."""
    others = [box["nominal"] for box in record["sets"] if "nominal" in box]
    return [record["nominal"], *{sample["of"]: sample for sample in others}.values()]


def _overview(records: Sequence[Record]) -> str:
    places = rank_all(records)
    rows = []
    for record in records:
        cells = [escape(record["name"])]
        for part, sample in parts_of(record).items():
            tail = _place(places["cvar"], record["name"]) if part == "worst" else ""
            cells += [_return_of(part, sample) + _place(places[part], record["name"]), shown(sample["cvar"]) + tail]
        rows.append(cells)
    header = ["policy", *(text for part in PARTS for text in (f"{part} return", f"CVaR 10%, {part}"))]
    ranked = "A rank counts from the best; its interval resamples the episodes of every policy. " * (len(records) > 1)
    text = (
        f"<p class='soft'>{ranked}CVaR: mean of the worst tenth of the episodes. Average: uniform over the set with "
        "the lowest worst case. Intervals are those of these very policies: nothing here says how another training "
        "seed would do.</p>"
    )
    drawings = [figures.nominal_and_worst(records)] if len(records) > 1 else []
    drawings += [figures.tail_distributions(record) for record in records]
    return section("Returns", table(header, rows), text, gallery(drawings))


def _return_of(part: str, sample: Record) -> str:
    """Return a mean and its interval; where a nominal one is not the undisturbed task's, with where it is."""
    elsewhere = part == "nominal" and sample.get("at")
    return with_interval(sample) + (f" {escape(nominal_in_words(sample))}" if elsewhere else "")


def rank_all(records: Sequence[Record]) -> dict[str, dict[str, Rank]]:
    """Return the ranks of the policies by mean return, nominal, average and worst; and by CVaR at the worst.

    None of nominal returns where those of the policies are of different nominal points.
    """
    found: dict[str, dict[str, Rank]] = {}
    for part in PARTS:
        samples = {record["name"]: np.array(parts_of(record)[part]["returns"]) for record in records}
        found[part] = ranks(samples, generator=np.random.default_rng(0))
    if len({nominal_in_words(parts_of(record)["nominal"]) for record in records}) > 1:
        found["nominal"] = {}
    tails = {record["name"]: np.array(parts_of(record)["worst"]["returns"]) for record in records}
    return found | {"cvar": ranks(tails, partial(cvar, level=TAIL), generator=np.random.default_rng(0))}


def _place(places: dict[str, Rank], name: str) -> str:
    if len(places) < 2:
        return ""
    rank = places[name]
    spread = f" [{rank.low}–{rank.high}]" if rank.low < rank.high else ""
    return f" <span class='soft'>rank {rank.rank}{spread}</span>"


def _curves(records: Sequence[Record]) -> str:
    drawings, rows = [], []
    for b, box in enumerate(records[0]["sets"]):
        for k in range(len(box["curves"])):
            drawings.append(figures.response_curves(records, b, k))
            rows += [_radius_row(record["sets"][b], record, k) for record in records]
    header = ["parameter", "policy", "nominal", "range", "down to", "up to", "lowest mean", "ended early", "diverged"]
    text = (
        "<p class='soft'>Robust radius: how far the parameter may go from its nominal value, the others nominal, "
        "before the mean return falls below 80 % of the nominal one (of a negative one: by a fifth of its magnitude). "
        "In brackets its 95% interval over reset seeds; between tried values the mean is taken as linear.</p>"
    )
    return section("One parameter at a time", gallery(drawings), table(header, rows), text)


def _radius_row(box: Record, record: Record, k: int) -> list[str]:
    curve, parameter = box["curves"][k], box["parameters"][k]
    name = escape(parameter_label(curve["parameter"]))
    if curve["parameter"] in box["without_effect"]:
        name += " <span class='soft'>no effect seen</span>"
    episodes = curve["episodes"] * len(curve["values"])
    return [
        name,
        escape(record["name"]),
        shown(curve["nominal"]),
        f"{parameter['low']:.4g} to {parameter['high']:.4g}",
        radius_in_words(curve["radius"]["down"]),
        radius_in_words(curve["radius"]["up"]),
        shown(min(curve["mean"])),
        f"{sum(curve['ended_early'])} of {episodes}",
        str(sum(curve["diverged"])),
    ]


def _maps(records: Sequence[Record]) -> Iterator[str]:
    if any(box["maps"] for box in records[0]["sets"]):
        limits = figures.colour_limits(records)
        drawings = [
            figures.pair_map(record, box, k, limits)
            for record in records
            for box in record["sets"]
            for k in range(len(box["maps"]))
        ]
        yield section("Two parameters at a time", gallery(drawings))


def _worst_points(records: Sequence[Record]) -> str:
    rows = [
        [
            escape(box["name"]),
            escape(record["name"]),
            escape(where(box["worst"]["at"])),
            with_interval(box["worst"]),
            shown(box["worst"]["cvar"]),
            str(box["worst"]["episodes"]),
            shown(box["worst"]["lowest_of_search"]),
            str(box["worst"]["points_searched"]),
            with_interval(box["average"]),
        ]
        for record in records
        for box in record["sets"]
    ]
    header = ["set", "policy", "worst point", "mean return there", "CVaR 10%", "episodes"]
    header += ["lowest of the search", "points searched", "average over the set"]
    text = (
        "<p class='soft'>“Lowest of the search” is the least mean of all points tried: it is too low, since "
        "the luck of its episodes chose it, and stands here only for comparison. The lower end of the interval also "
        "allows for points that were not tried, as far as a smooth surface through all that were says.</p>"
    )
    return section("The worst point of each set", table(header, rows, words=True), text)


def _moments(records: Sequence[Record]) -> Iterator[str]:
    if "worst_moment" not in records[0]["sets"][0]:
        return
    drawings = [figures.moments(records, b) for b in range(len(records[0]["sets"]))]
    pairs = [(record, box, box["worst_moment"]) for record in records for box in record["sets"]]
    rows = [
        [
            escape(box["name"]),
            escape(record["name"]),
            escape(where(found["at"])),
            f"{found['duration']} steps from step {found['onset']} on",
            with_interval(found),
            shown(found["nominal"]),
            with_interval(box["worst"]),
            f"{len(found['tried'])}, {found['episodes']} episodes",
        ]
        for record, box, found in pairs
    ]
    header = [
        "set",
        "policy",
        "disturbed by",
        "worst moment",
        "mean return then",
        "without it",
        "for the whole episode",
    ]
    text = (
        "<p class='soft'>An adversary that chooses when: the worst point of the set holds for a few steps only, and "
        "the dynamics are nominal before and after. It tries moments over the whole episode, then ever nearer to the "
        "worst one; what is reported comes from seeds that did not choose the moment.</p>"
    )
    yield section("The worst moment", gallery(drawings), table([*header, "moments tried"], rows, words=True), text)


def _failures(records: Sequence[Record]) -> str:
    rows = []
    for record in records:
        samples = [(f"nominal: {nominal_in_words(sample)}", sample) for sample in nominals_of(record)]
        for box in record["sets"]:
            samples += [(f"average over {box['name']}", box["average"]), (f"worst of {box['name']}", box["worst"])]
        for part, sample in samples:
            counts = [str(sample[key]) for key in ("episodes", "ended_early", "ended_early_low", "diverged", "low")]
            rows.append([escape(record["name"]), escape(part), *counts])
    header = ["policy", "where", "episodes", "ended early", "of these low", "physics diverged", "low otherwise"]
    text = (
        "<p class='soft'>Ended early: the task itself ended the episode, and no time limit: a fall in one task, the "
        "goal in another. Low: below 80 % of the nominal mean return; an early end counts as a failure where its "
        "return is low. Diverged: MuJoCo's state became huge or not a number; such an episode counts with its return "
        "up to there. Low otherwise: neither ended early nor diverged, and yet low.</p>"
    )
    return section("How episodes ended", table(header, rows), text)


def _untried(content: Record) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in content["not_tried"])
    return section("What was not tried", f"<ul>{items}</ul>")


def _method(content: Record) -> str:
    record = content["policies"][0]
    counts = ", ".join(f"{part} {count}" for part, count in episodes_of(record).items())
    seeds = ", ".join(f"{part} from {first}" for part, first in record["method"]["seeds"].items())
    rows = [
        ["policies", "<br>".join(escape(_origin(one)) for one in content["policies"])],
        ["episodes per policy", escape(counts)],
        ["reset seeds", escape(seeds)],
        ["command", f"<code>{escape(content['command'])}</code>"],
        ["commit", escape(f"{content['commit']}{' (changed)' if content['dirty'] else ''}")],
        ["versions", escape(", ".join(f"{name} {version}" for name, version in content["versions"].items()))],
        ["time", escape(content["time"])],
    ]
    text = (
        "<p class='soft'>Curves, maps, a grid, CMA-ES from the worst cells and points that a surface through all "
        "others proposes look for the worst point of each set; six finalists are measured again on fresh seeds, and "
        "the worst of these once more on seeds that chose nothing. Parts that must not know of each other share no "
        "seed.</p>"
    )
    return section("Method", table(["what", "value"], rows, words=True), text)


def _origin(record: Record) -> str:
    digest = f", SHA-256 {record['sha256']}" if record["sha256"] else ""
    notes = "".join(f"; {note}" for note in record["notes"])
    return f"{record['label']}: {record['agent']}, step {record['step']}{digest}{notes}"
