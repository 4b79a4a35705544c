"""./run.sh bench gpu: what a card is worth, within a time: rates, folds side by side, and presets on the reports.

1. Rates of training and prediction of each kind of step of the presets.
2. Rates of 1 to 16 folds of the slowest encoder of `standard` side by side.
3. `standard`, from the files to the submission.
4. Rates of folds of its other encoders side by side.
5. `full` with three seeds.

The first two parts end in time for the third; the others have the time that is left. After each figure the JSON is
written, so that nothing that is measured is lost by a kill, and the same command goes on with what is missing. An
error, such as too little memory on the card, is noted in the place of the figure, and is not tried again.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from src.bench import gpu
from src.core import interrupts, locks, storage, terminal
from src.core.errors import OutOfTime, UserError
from src.core.executors import Failure, Job, LocalProcesses, available_cores, run_shown
from src.core.settings import CLINICAL
from src.core.settings_loader import load_config
from src.core.terminal import add_json, dependency, duration, info, result, show_table, warn
from src.data.synthetic import FILES, make_sample
from src.data.tasks import ROUND1
from src.evaluation.figures import estimate_text
from src.evaluation.runs import figure_of
from src.evaluation.workspace import Workspace
from src.pipeline.stage import get_stage, make
from src.pipeline.stages.train import run_target
from src.training import device_cache, devices
from src.training.initialization import pretrain_jobs
from src.training.planning import fold_jobs

PRESETS = ("quick", "standard", "full")
"""Presets whose runs' steps are measured."""
MADE = ("standard", "full")
"""Presets that are made."""
SEEDS = {"full": ("train.seeds=[1,2,3]",)}
"""Words for a preset that is made."""
STAGES = ("prepare", "folds", "shift", "pretrain", "train", "blend", "submit")
RATES_SHARE, SIDE_SHARE = 0.2, 0.1
"""Shares of the time that the rates of steps, and of folds side by side before a preset, may take."""
RESERVE = 25.0
"""Seconds before the end at which everything stops: workers have 10 s to keep their state."""
SMALL = gpu.Sizes(rows=64, predicted=64, seconds=0.05, side_by_side=(1, 2))
"""Sizes of a dry run."""
SMALL_ROWS, SMALL_TEST_ROWS = 120, 20
SMALL_WORDS = (
    "device=cpu", "executor.threads=1", "folds.k=2", "train.epochs=1", "pretrain.epochs=1", "model.embedding_size=24",
    "model.hidden_size=8", "model.feedforward_size=16", "model.layers=1", "shift.draws=1",
)  # fmt: skip


class GpuBench:
    """The command: what is measured, and how much time is left."""

    def __init__(self, workspace: Workspace, seconds: float, dry_run: bool = False):
        """Raises UserError where there is no CUDA device, except for a dry run; for a task without reports; and where
        the JSON is of another machine."""
        settings = workspace.settings
        if settings.task in CLINICAL:
            raise UserError(f"bench gpu measures models of reports, not of {settings.task}: leave --task out")
        if not dry_run and not torch.cuda.is_available():
            raise UserError(
                "bench gpu needs a CUDA device, and torch finds none here. To try the command with tiny sizes on the "
                "CPU, whose figures say nothing of a card: ./run.sh bench gpu --dry-run"
            )
        self.folder = workspace.output.gpu_dry_run if dry_run else workspace.output.gpu
        self.seconds, self.dry_run, self.sizes = seconds, dry_run, SMALL if dry_run else gpu.Sizes()
        self.device = torch.device("cpu" if dry_run else "cuda")
        self.words = [*settings.overrides, f"paths.output={self.folder / 'pipeline'}"]
        if dry_run:
            self.words += [*SMALL_WORDS, f"paths.input={self.folder / 'input'}"]
        self.configs = {name: load_config(name, [*self.words, *SEEDS.get(name, ())]) for name in PRESETS}
        self.encoders = gpu.encoders(self.configs)
        self.command = workspace.command("bench", "gpu")

    @property
    def left(self) -> float:
        return terminal.started() + self.seconds - RESERVE - time.monotonic()

    def run(self) -> dict[str, Any]:
        with locks.hold(self.folder, ["bench"], [], self.command):
            self.found = self._begun()
            self.session = {"limit": self.seconds, "seconds": None}
            self.found["sessions"].append(self.session)
            self._save()
            if self.dry_run and not (self.folder / "input" / FILES[0]).exists():
                make_sample(self.folder / "input", rows=SMALL_ROWS, test_rows=SMALL_TEST_ROWS, task=ROUND1, seed=7)
            self._rates(min(RATES_SHARE * self.seconds, self.left))
            slowest, *others = self._side_encoders()
            self._side_by_side(slowest, min(SIDE_SHARE * self.seconds, self.left))
            self._make(MADE[0])
            for name in others:
                self._side_by_side(name, self.left)
            for preset in MADE[1:]:
                self._make(preset)
            self.session["seconds"] = time.monotonic() - terminal.started()
            self._save()
            self._show()
        return self.found

    @property
    def _json(self) -> Path:
        return self.folder / "bench.json"

    def _begun(self) -> dict[str, Any]:
        """Returns what is measured already. Raises UserError where it is of another machine."""
        machine = {
            "device": devices.name_of(self.device),
            "auto_precision": devices.pick_precision("auto", self.device),
            "torch": torch.__version__,
            "cuda": torch.version.cuda if self.device.type == "cuda" else None,
            "cores": available_cores(),
            "python": platform.python_version(),
            "dry_run": self.dry_run,
            "version": gpu.VERSION,
        }
        rates = {name: {"used_by": one["used_by"], "variants": {}} for name, one in self.encoders.items()}
        new = {"machine": machine, "sessions": [], "rates": rates, "side_by_side": {}, "presets": {}}
        if not self._json.exists():
            return new
        found = storage.read_json(self._json)
        if changed := [key for key, value in machine.items() if found["machine"].get(key) != value]:
            was = ", ".join(f"{key} {found['machine'].get(key)}, here {machine[key]}" for key in changed)
            raise UserError(
                f"{self._json} was measured elsewhere ({was}). Move {self.folder} away to keep it, or measure into "
                "another folder: paths.output=DIR"
            )
        found["rates"] = {name: found["rates"].get(name, one) for name, one in rates.items()}
        return found

    def _save(self) -> None:
        storage.write_json(self._json, self.found)
        storage.write_text(self.folder / "bench.md", gpu.as_markdown(self.found, self._missing()))

    def _missing(self) -> list[str]:
        """Parts without a figure or an error."""
        rates = [f"{name} {variant.name}" for name, variant in self._unmeasured()]
        side = [
            f"{count} folds of {name} side by side"
            for name in self._side_encoders()
            for count in reversed(self._uncounted(name))
        ]
        made = [name for name in MADE if not _is_over(self.found["presets"].get(name, {}))]
        return [*rates, *side, *made]

    # Rates

    def _unmeasured(self) -> list[tuple[str, gpu.Variant]]:
        measured = self.found["rates"]
        return [
            (name, variant)
            for name in self.encoders
            for variant in gpu.variants()
            if variant.name not in measured[name]["variants"]
        ]

    def _rates(self, seconds: float) -> None:
        """Measures the steps that are missing, in waves of as many processes as there are cores and memory for."""
        wanted = self._unmeasured()
        until = seconds + time.monotonic()
        cores = max(2, available_cores())
        size = cores if self.device.type == "cpu" else min(cores, devices.jobs_on(self.device))
        for start in range(0, len(wanted), size):
            named = {f"{name}: {variant.name}": (name, variant) for name, variant in wanted[start : start + size]}

            def keep(job: str, figures: dict[str, Any], named: dict[str, Any] = named) -> None:
                name, variant = named[job]
                self.found["rates"][name]["variants"][variant.name] = {"precision": variant.precision, **figures}
                self._save()

            given = {job: (self.encoders[name]["run"], variant) for job, (name, variant) in named.items()}
            if not self._wave("rates", given, until, keep):
                return

    def _side_encoders(self) -> list[str]:
        """Encoders of the preset that is made first, whose folds are measured side by side: the slowest first."""

        def trained(name: str) -> float:
            found = self.found["rates"][name]["variants"].values()
            return max((one.get(gpu.TRAINED, 0.0) for one in found), default=0.0)

        names = [name for name, one in self.encoders.items() if any(_is_of(MADE[0], used) for used in one["used_by"])]
        return sorted(names, key=trained)

    def _uncounted(self, name: str) -> list[int]:
        """Numbers of folds of an encoder that are not measured side by side, the largest first."""
        measured = self.found["side_by_side"].get(name, {})
        counts = [count for count in self.sizes.side_by_side if count <= max(2, available_cores())]
        return sorted((count for count in counts if str(count) not in measured), reverse=True)

    def _side_by_side(self, name: str, seconds: float) -> None:
        """Measures the numbers of folds that are missing, by one wave: so many, then fewer of its processes train."""
        counts, run, made = self._uncounted(name), self.encoders[name]["run"], {}
        if not counts:
            return
        variant = gpu.Variant(self.found["machine"]["auto_precision"])
        given = {f"{name}: fold {i + 1} of {counts[0]}": (run, variant) for i in range(counts[0])}
        self._wave(f"folds of {name} side by side", given, seconds + time.monotonic(), made.__setitem__, counts)
        errors = [figures["error"] for figures in made.values() if "error" in figures]
        for count in counts:
            rates = [one["together"][str(count)] for one in made.values() if str(count) in one.get("together", {})]
            if len(rates) == count:
                kept = {key: sum(one[key] for one in rates) for key in (gpu.TRAINED, gpu.PREDICTED)}
            elif errors:
                kept = {"error": errors[0]}
            else:  # the time was over before
                continue
            self.found["side_by_side"].setdefault(name, {})[str(count)] = kept
        self._save()

    def _wave(
        self,
        title: str,
        given: dict[str, tuple[Any, gpu.Variant]],
        until: float,
        keep: Callable[[str, dict[str, Any]], None],
        counts: Sequence[int] = (),
    ) -> bool:
        """Measures rates by jobs that are set up side by side, see gpu.job(); `keep` gets the figures, or the error, of
        each. Returns False where the time, of time.monotonic(), was over before all had ended."""
        seconds = until - time.monotonic()
        if seconds <= 0:
            info(f"bench: no time is left for {title}")
            return False
        with tempfile.TemporaryDirectory() as folder:
            wave = Path(folder)
            jobs = [
                gpu.job(name, run, variant, self.sizes, self.device.type, wave, seconds, len(given), counts)
                for name, (run, variant) in given.items()
            ]
            try:
                run_shown(LocalProcesses(len(jobs), 1, until), title, jobs, also=_Kept(keep))
            except OutOfTime:
                info(f"bench: the time for {title} is over")
                return False
        return True

    # Presets

    def _make(self, preset: str) -> None:
        """Makes a preset up to its submission, in the time that is left, and notes what is done."""
        found = self.found["presets"].setdefault(preset, {"stages": {}, "sessions": [], "seconds": None})
        if _is_over(found):
            return
        if (seconds := self.left) <= 0:
            info(f"bench: no time is left for {preset}")
            return
        settings = self.configs[preset]
        workers = found["workers"] = settings.executor.workers
        found["command"] = " ".join([preset, *SEEDS.get(preset, ())])
        found["sessions"].append(None)  # stays so if this command is killed
        self._save()
        info(f"bench: {found['command']} with executor.workers={workers}, {duration(seconds)} at most")
        workspace, started = Workspace(settings), time.monotonic()
        try:
            with interrupts.limited(seconds), dependency():
                for name in STAGES:
                    self._stage(workspace, name, found["stages"])
            found["is_done"] = True
        except interrupts.TimedOut:
            info(f"bench: the time for {preset} is over; the same command goes on from there")
        except UserError as error:
            found["error"] = str(error)
            warn(f"bench: {preset}: {error}")
        found["sessions"][-1] = time.monotonic() - started
        if found.get("is_done") and None not in found["sessions"]:
            found["seconds"] = sum(found["sessions"])
        found |= _progress(workspace)
        self._save()

    def _stage(self, workspace: Workspace, name: str, seconds: dict[str, float]) -> None:
        started = time.monotonic()
        try:
            make(workspace, get_stage(name))
            workspace.made.add(name)
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.monotonic() - started
            self._save()

    def _show(self) -> None:
        for title, columns, rows in gpu.tables(self.found):
            show_table(title, columns, rows)
        add_json("gpu", self.found)
        if missing := self._missing():
            result(f"\nbench: not measured yet: {', '.join(missing)}. The same command goes on with it")
        result(f"\nbench: figures are in {self._json} and bench.md ({duration(self.session['seconds'])})")


def _is_over(found: dict[str, Any]) -> bool:
    return bool(found.get("is_done")) or "error" in found


def _is_of(preset: str, used: str) -> bool:
    return used.split("/")[0] == preset


class _Kept:
    """Watcher that hands on what each job has measured, or why it failed."""

    def __init__(self, keep: Callable[[str, dict[str, Any]], None]):
        self._keep = keep

    def step(self, job: Job, news: dict[str, Any]) -> None:
        pass

    def finish(self, job: Job, failure: Failure | None) -> None:
        if failure:
            gpu.mark(job.payload, gpu.ENDED)  # a process that died has not
        self._keep(job.name, {"error": failure.reason} if failure else storage.read_json(gpu.result_of(job)))


def _progress(workspace: Workspace) -> dict[str, Any]:
    """Jobs that are done, and scores of the runs of the preset that are: out of fold, of the train file."""
    workspace.refresh()
    settings, found = workspace.settings, {"scores": {}}
    workspace = workspace.variant(settings)
    workspace.read_only = True
    try:
        here = device_cache.recall_or_find(workspace)
        groups = pretrain_jobs(workspace, here).values()
        encoders = list({str(job.path): job for group in groups for job in group}.values())
        jobs = fold_jobs(workspace, here)
        found["pretrained"], found["trained"] = _count(encoders), _count([job for one in jobs.values() for job in one])
        found["train_rows"] = len(workspace.labels)
        found["train_files"] = [name for role, name, _ in workspace.dataset.manifest["input"] if role == "train"]
        done = [name for name in settings.runs if run_target(workspace, name, jobs[name]).is_current()]
        if len(done) == len(settings.runs) and all(one.is_current() for one in get_stage("blend").targets(workspace)):
            done.append("blend")
        for name in done:
            found["scores"][name] = estimate_text(figure_of(workspace.run(name).score, settings.metric))
    except UserError as error:  # what they need is not made
        found["not_counted"] = str(error)
    return found


def _count(jobs: Sequence[Any]) -> str:
    return f"{sum(job.is_done() for job in jobs)} of {len(jobs)}"
