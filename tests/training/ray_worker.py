"""What the workers of a test's Ray know: the fake agent, one of whose runs dies in the middle, once."""

import os
import signal
from pathlib import Path

import fake_agent

from surefoot import agents


def know_fake_and_die_once() -> None:
    """Register the fake agent, and let a run with padding 1 kill its process before agent step 41, the first time."""
    agents.REGISTRY["fake"] = "fake_agent:FAKE_SPEC"
    mark = Path(os.environ["DIED"])
    step = fake_agent.Fake.step

    def dangerous(self):
        if self.steps == 40 and self.config.padding == 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self)

    fake_agent.Fake.step = dangerous
