"""Small sweeps of the fake agent."""

TINY = {
    "env.id": ["surefoot/Pendulum-v0"],
    "env.max_episode_steps": [10],
    "eval.every": [150],
    "eval.episodes": [1],
    "log_every": [14],
    "checkpoint_every": [30],
    "steps": [60],
}


def words(settings):
    """Return settings as --set takes them."""
    return [f"{key}={','.join(map(str, values))}" for key, values in settings.items()]
