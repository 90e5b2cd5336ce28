"""Measuring: modes side by side in interleaved slices of one run, and what the machine delivered meanwhile.

`grove bench compare` is the command. Nothing here imports torch in the supervisor's process; `grove.bench.core.peak`
measures the network alone in a process of its own.
"""

from grove.bench.core.compare import Comparison, run_comparison
from grove.bench.core.estimate import LongRun, parse_plan, plan_columns
from grove.bench.core.modes import MODES, Asked, parse_modes, pool_plans
from grove.bench.core.probe import Probe, burn_probe
from grove.bench.core.report import busy_warning, print_days, print_table, write_header, write_results
from grove.bench.core.results import rows

__all__ = [
    "MODES",
    "Asked",
    "Comparison",
    "LongRun",
    "Probe",
    "burn_probe",
    "busy_warning",
    "parse_modes",
    "parse_plan",
    "plan_columns",
    "pool_plans",
    "print_days",
    "print_table",
    "rows",
    "run_comparison",
    "write_header",
    "write_results",
]
