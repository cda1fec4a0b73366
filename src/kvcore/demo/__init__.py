# SPDX-License-Identifier: Apache-2.0
"""The main job: the storage of a 1,000-node control plane on this machine, measured and checked.

    manifests -> workload -> create -> read -> update -> compact -> kill a writer -> reopen -> table

`run(Settings(...), ui, report)` does all of it in one directory and fills a `Report`, as far as it
comes; the command line prints that, and `report.page` makes a web page of it.  Every phase compares
what it reads with what the workload says it wrote.
"""

from kvcore.demo.measure import Check, Figure, Report, Samples
from kvcore.demo.run import Settings, run
from kvcore.demo.workload import Workload

__all__ = ["Check", "Figure", "Report", "Samples", "Settings", "Workload", "run"]
