"""Without MuJoCo Warp only the tasks on tensors can be tested."""

import importlib.util

NEED_IT = ["test_equality.py", "test_parts.py", "test_use.py", "test_vector_env.py"]
collect_ignore = [] if importlib.util.find_spec("mujoco_warp") else NEED_IT
