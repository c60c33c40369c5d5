#!/bin/sh
# Many worlds with MuJoCo Warp on one GPU, in less than eight minutes: see worlds.py. `--dry-run` goes through it on a
# CPU. PYTHON names another interpreter.
cd "$(dirname "$0")" && exec "${PYTHON:-../.venv/bin/python}" worlds.py "$@"
