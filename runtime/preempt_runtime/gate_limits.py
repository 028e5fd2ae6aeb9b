"""How long gates, and the host that waits for jobs behind them, wait before they give up."""

COST_FACTOR = 10
"""A job may take so many times what its plan says: others take its key away after that."""

PATIENCE_NS = 10_000_000_000
"""Beyond that factor, before the host takes it that the GPU hangs: gates give up long before."""

ANNOUNCED_NS = 2_000_000
"""How long others are held back for an announced job that does not come."""
