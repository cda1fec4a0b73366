# SPDX-License-Identifier: Apache-2.0
"""A cluster's worth of clients: kubelets, a scheduler, a replica controller, driven by any clock.

    replica controller ──pods──> API server <──binding── scheduler
                                     │ ^
                        own pods ────┘ └──── node, lease every 10 s, pod status
                                  kubelets

They do what the real ones say to an API server and nothing else: no container runs. Each is a
client like any other (`Client`), in process or over HTTPS, so the load is the load of a cluster of
that size. Under a virtual clock (`virtual_loop`) a day of leases passes in seconds, the same way
each time.

>>> from kvcore.sim import simulate
>>> report = simulate(nodes=3, replicas=6, seconds=60)
>>> report.running, report.leases >= 3 * 6
(6, True)
"""

from __future__ import annotations

from kvcore.sim.client import Client, LocalClient
from kvcore.sim.clock import VirtualLoop, direct, virtual_loop
from kvcore.sim.cluster import Cluster, Report, simulate
from kvcore.sim.informer import Informer
from kvcore.sim.kubelet import Kubelet
from kvcore.sim.replicas import ReplicaController
from kvcore.sim.scheduler import Scheduler

__all__ = ["Client", "Cluster", "Informer", "Kubelet", "LocalClient", "ReplicaController",
           "Report", "Scheduler", "VirtualLoop", "direct", "simulate", "virtual_loop"]
