"""Anything that can act, whatever wrote it, behind one interface; no file runs code unless a flag allows it."""

from surefoot.evaluation.policies.fit import bound_to, fitted, for_task, ready_for, require_fit
from surefoot.evaluation.policies.loading import load_any
from surefoot.evaluation.policies.opened import AnyPolicy, Permissions

__all__ = ["AnyPolicy", "Permissions", "bound_to", "fitted", "for_task", "load_any", "ready_for", "require_fit"]
