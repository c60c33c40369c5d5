"""Surefoot: reinforcement-learning agents for policies that must hold where they were not trained."""
