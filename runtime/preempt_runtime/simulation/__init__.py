"""A task set on a virtual clock: what a run would do, from what its segments are known to take.

`simulate` runs one, by the executor and the policies of a run, on a device that only lets time
pass; `costs` say what segments take. `points`, `sweep`, `table` and `plot` make many of them.
"""

from preempt_runtime.simulation.costs import read_costs
from preempt_runtime.simulation.simulate import SimulationOptions, SimulationReport, simulate

__all__ = ["SimulationOptions", "SimulationReport", "read_costs", "simulate"]
