"""The entry point: `python train.py AGENT --preset TASK` is `surefoot train AGENT --preset TASK`."""

import sys

from surefoot.training.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
