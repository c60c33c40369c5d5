"""Without MuJoCo Warp only the tasks on tensors can be tested."""

import importlib.util

collect_ignore = [] if importlib.util.find_spec("mujoco_warp") else ["test_vector_env.py", "test_equality.py"]
