"""Looking at a run: `report.html`, and the same on a terminal.

write_report(workdir)            # report.html
Reporter(workdir).update()       # the same while the run goes on, at a bounded cost
show_run(workdir)                # `rft show`
"""

from rft_jax.report.html import Reporter, write_report
from rft_jax.report.terminal import show_run

__all__ = ["Reporter", "show_run", "write_report"]
