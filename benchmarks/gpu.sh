#!/bin/sh
# What one GPU does, in less than eight minutes: see gpu.py. `--dry-run` goes through it on a CPU. PYTHON names another.
cd "$(dirname "$0")" && exec "${PYTHON:-../.venv/bin/python}" gpu.py "$@"
