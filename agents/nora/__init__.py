"""Optimistic actor-critics with rare switching: NORA, NOAH and their family (arXiv 2505.03710)."""
