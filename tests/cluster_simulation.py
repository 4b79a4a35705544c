"""Simulation of a cluster that runs jobs as core/ray_executor.py does, for the table in docs/distributed.md.

python -m tests.cluster_simulation

Jobs start in descending order of cost, one on each free core. Nodes fail at random (exponential times) and come back.
The jobs of a node that fails are found lost after a while, and start again before all others, from their last epoch.
What it leaves out: reading and writing on the shared folder, and time that Ray takes (`overhead` a job).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Cluster:
    nodes: int = 100
    cores: int = 16
    """Jobs that a node runs at a time."""
    mean_life: float = float("inf")
    """Mean seconds until a node fails."""
    repair: float = 600.0
    """Seconds until a failed node, or one in its place, is there."""
    detection: float = 30.0
    """Seconds until its jobs are known to be lost."""
    overhead: float = 0.3
    """Seconds of each start of a job."""
    keeps_epochs: bool = True
    """False: a lost job starts from its beginning."""


@dataclass(frozen=True)
class Outcome:
    makespan: float
    """Seconds until the last job is done."""
    ideal: float
    """Seconds with all cores busy, no overhead and no failure; at least those of the longest job."""
    failures: int
    lost: int
    """Jobs that were lost with a node, counted each time."""
    done: int


def simulate(seconds: np.ndarray, epochs: int, cluster: Cluster, seed: int) -> Outcome:
    """Runs jobs of so many `seconds` (J,), in `epochs` equal parts each, on a cluster."""
    rng = np.random.default_rng(seed)
    left = seconds.astype(float).copy()
    waiting = list(np.argsort(-seconds, kind="stable"))[::-1]
    again: list[int] = []
    running: list[dict[int, float]] = [{} for _ in range(cluster.nodes)]
    """Jobs that run on each node, and when they began."""
    is_up, life = [True] * cluster.nodes, [0] * cluster.nodes
    events: list[tuple[float, int, str, int, int, int]] = []
    order = failures = lost = done = 0

    def add(time: float, kind: str, node: int, job: int = -1) -> None:
        nonlocal order
        order += 1
        heapq.heappush(events, (time, order, kind, node, job, life[node]))

    def fill(node: int, now: float) -> None:
        while is_up[node] and len(running[node]) < cluster.cores and (again or waiting):
            job = again.pop() if again else waiting.pop()
            running[node][job] = now
            add(now + cluster.overhead + left[job], "done", node, job)

    for node in range(cluster.nodes):
        if np.isfinite(cluster.mean_life):
            add(rng.exponential(cluster.mean_life), "fails", node)
    for _ in range(cluster.cores):  # one job a node in turn, as the nodes are equally free
        for node in range(cluster.nodes):
            if waiting:
                job = waiting.pop()
                running[node][job] = 0.0
                add(cluster.overhead + left[job], "done", node, job)
    now = 0.0
    while done < len(seconds):
        now, _, kind, node, job, born = heapq.heappop(events)
        if kind == "lost":
            again.append(job)
            for other in range(cluster.nodes):
                fill(other, now)
        elif kind == "back":
            is_up[node] = True
            add(now + rng.exponential(cluster.mean_life), "fails", node)
            fill(node, now)
        elif born != life[node]:
            continue  # of a node that has failed since
        elif kind == "done":
            del running[node][job]
            done += 1
            fill(node, now)
        else:
            failures += 1
            life[node] += 1
            is_up[node] = False
            for one, began in running[node].items():
                lost += 1
                if cluster.keeps_epochs:
                    epoch = seconds[one] / epochs
                    left[one] -= epoch * np.floor(max(0.0, now - began - cluster.overhead) / epoch)
                add(now + cluster.detection, "lost", node, one)
            running[node].clear()
            add(now + cluster.repair, "back", node)
    ideal = max(seconds.sum() / (cluster.nodes * cluster.cores), seconds.max())
    return Outcome(now, ideal, failures, lost, done)


MEASURED = (151.0, 46.0, 223.0, 77.0)
"""Seconds of the fold jobs of `standard` on one core: transformer, lstm, student, lstm_student."""


def jobs(number: int, seed: int = 1) -> np.ndarray:
    """Seconds of jobs, (J,), in equal parts of the measured kinds, which spread by 5%."""
    rng = np.random.default_rng(seed)
    return np.resize(MEASURED, number) * rng.normal(1.0, 0.05, number)


def main() -> None:
    seconds, hour = jobs(10_000), 3600.0
    print("| mean life of a node | lost jobs start from | ideal | makespan | of the ideal | failures | jobs lost |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for cores in (16, 1):
        for life, keeps in ((float("inf"), True), (24 * hour, True), (hour, True), (hour, False), (hour / 4, True)):
            cluster = Cluster(cores=cores, mean_life=life, keeps_epochs=keeps)
            found = [simulate(seconds, 6, cluster, seed) for seed in range(10)]
            mean = {name: np.mean([vars(one)[name] for one in found]) for name in vars(found[0])}
            words = f"{cores} core{'s' * (cores > 1)}; " + ("no failures" if np.isinf(life) else f"{life / hour:g} h")
            print(
                f"| {words} | {'their last epoch' if keeps else 'their beginning'} | {mean['ideal']:,.0f} s "
                f"| {mean['makespan']:,.0f} s | {mean['makespan'] / mean['ideal']:.2f} "
                f"| {mean['failures']:,.1f} | {mean['lost']:,.0f} |"
            )


if __name__ == "__main__":
    main()
