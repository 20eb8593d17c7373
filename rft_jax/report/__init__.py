"""Looking at a run: `report.html`, and the same on a terminal.

write_report(workdir)            # report.html
Reporter(workdir).update()       # the same while the run goes on, at a bounded cost
show_run(workdir)                # `rft show`
write_comparison(path, name, {"unseen": compare(models, differences)})    # `rft eval`
"""

from rft_jax.report.comparison import compare
from rft_jax.report.ending import end_of_run
from rft_jax.report.history import CASES_FILE
from rft_jax.report.html import Reporter, write_comparison, write_report
from rft_jax.report.terminal import show_comparison, show_run

__all__ = [
    "CASES_FILE",
    "Reporter",
    "compare",
    "end_of_run",
    "show_comparison",
    "show_run",
    "write_comparison",
    "write_report",
]
