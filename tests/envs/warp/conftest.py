"""Without MuJoCo Warp only the tasks on tensors can be tested; what compares worlds with C is that of the benchmark."""

import importlib.util
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

NEED_IT = ["test_agents.py", "test_equality.py", "test_parts.py", "test_use.py", "test_vector_env.py"]
collect_ignore = [] if importlib.util.find_spec("mujoco_warp") else NEED_IT
