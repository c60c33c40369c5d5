"""Every number of every configuration has a finite range: found by walking all dataclasses of all agents."""

import dataclasses
import math
from typing import get_type_hints

import pytest
from numeric_fields import kinds, numeric_fields

from surefoot import agents
from surefoot.configs.memory import require_memory, total_memory
from surefoot.configs.ranges import require_between, require_finite
from surefoot.training.config.presets import default_config
from surefoot.training.config.run import EvalConfig, RunConfig, require_device
from surefoot.training.sweep.plan import SearchObjective, Sweep

# What a negative number means something for, by the name of the field.
ANY_SIGN = {"gravity", "log_std_min", "log_std_offset", "target_entropy", "lagrange_target", "success_return"}
ANY_SIGN |= {"gradient_steps", "stock_range", "return_range", "reward_range"}
INFINITE = {"on_policy_weight", "critic_on_policy_weight", "policy_on_policy_weight"}  # inf: on-policy only
INFINITE |= {"thresholds"}  # inf: no gate


def cases():
    """Yield every numeric field of every class once."""
    seen = set()
    configs = [default_config(name) for name in agents.REGISTRY] + [Sweep(), SearchObjective()]
    for config in configs:
        for parent, name, hint, value in numeric_fields(config):
            if (type(parent), name) not in seen:
                seen.add((type(parent), name))
                yield parent, name, hint, value


CASES = list(cases())
IDS = [f"{type(parent).__name__}-{name}" for parent, name, *_ in CASES]


def changed(parent, name, value, number):
    """Return the dataclass with a number in a field; in the first place of a tuple."""
    field = name.rpartition(".")[2]
    if "tuple" in str(get_type_hints(type(parent))[field]):
        number = (number, *(value[1:] if value else (1.0,)))
    return dataclasses.replace(parent, **{field: number})


@pytest.mark.parametrize(("parent", "name", "hint", "value"), CASES, ids=IDS)
def test_a_number_out_of_all_reason_is_refused(parent, name, hint, value):
    field = name.rpartition(".")[2]
    wrong = [10**30] if float not in kinds(hint) else [math.nan, math.inf, -math.inf, 1e30]
    if field not in ANY_SIGN:
        wrong.append(-1)
    for number in wrong:
        if field in INFINITE and number in (math.inf, 1e30):
            continue
        with pytest.raises(ValueError, match=field.replace("_", "[-_]")):
            changed(parent, name, value, number)


def test_all_agents_and_many_fields_are_walked():
    assert len({type(parent) for parent, *_ in CASES}) > len(agents.REGISTRY) * 0.7
    assert len(CASES) > 400


def test_a_run_looks_at_the_numbers_of_any_agent():
    @dataclasses.dataclass(frozen=True)
    class Careless:
        rate: float = 0.1
        widths: tuple[int, ...] = (8,)
        flag: bool = True

    assert RunConfig(Careless()).agent.rate == 0.1
    with pytest.raises(ValueError, match=r"--agent\.rate must be finite and within ±1e\+18, not inf"):
        RunConfig(Careless(rate=math.inf))
    with pytest.raises(ValueError, match=r"--agent\.widths must be finite"):
        RunConfig(Careless(widths=(8, 10**19)))


def test_the_ends_of_limits_are_within():
    require_between(EvalConfig(episodes=3), {"episodes": (3, 3), "grid": (2, 4)})  # None is no number
    with pytest.raises(ValueError, match=r"--eval\.episodes is 3; it must be from 4 to 9"):
        require_between(EvalConfig(episodes=3), {"episodes": (4, 9)}, "eval.")
    require_finite(default_config("hnpg").agent, infinite=())


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:-1", "cuda:99999999999", "cpu:0", "cuda:1 "])
def test_a_name_that_is_no_device_is_refused(name):
    with pytest.raises(ValueError, match="choose auto, cpu, cuda or cuda:N"):
        require_device(name)
    require_device("cuda:12")


def test_the_limit_of_a_container_counts(tmp_path):
    machine = total_memory(tmp_path)
    assert machine > 2**28
    (tmp_path / "memory.max").write_text("max\n")
    assert total_memory(tmp_path) == machine
    (tmp_path / "memory.max").write_text(f"{2**27}\n")
    assert total_memory(tmp_path) == 2**27
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(f"{2**26}\n")
    assert total_memory(tmp_path) == 2**26


def test_what_needs_more_memory_than_there_is_is_refused():
    require_memory(10.0, "this", there=10)
    with pytest.raises(ValueError, match=r"this needs 2\.0 GB of memory, and there are 1\.0 GB; lower it"):
        require_memory(2e9, "this", there=10**9)
