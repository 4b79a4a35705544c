"""Errands: jobs on machines that share no folder with the command, through an object store (ray.store).

The command sends what a job reads; what the store has already it does not send again. The node lays the files out in a
folder of its own, which is the job's output folder, and sends what the job has changed there. The command writes these
changes into the real output folder, whole and in the order in which jobs write: a result comes last.

A job that trains leaves its state in the store now and then, under a name that stands for the job, so that whoever does
it again goes on from there. Its fingerprint stands for all that it depends on; jobs without one begin anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.core import object_store, storage, temporaries
from src.core.errors import UserError
from src.core.executors import Job
from src.core.language import _
from src.core.object_store import Beat, Blob, Changes, NodeCache, ObjectStore, Tree, Unchanged
from src.core.settings import Ray
from src.core.terminal import info, warn

RESULT = "result.json"
"""Name of the files that jobs write last."""
TOLD = 1 << 20
"""Bytes to send above which the user is told before it is done."""


@dataclass(frozen=True)
class Errand:
    """Files of a job, as a node needs to know them."""

    store: str
    """URL of the store."""
    reads: Tree
    """Files of the output folder that the job finds."""
    so_far: Changes
    """Those of `reads` that an earlier try has made, and what it removed."""
    state: str | None
    """Name of the job's state in the store; None for a job that keeps none."""
    keep: float
    """Seconds between two times that the state is sent."""
    cache: float
    """Bytes of objects that a node keeps."""
    output: str
    """The real output folder, for messages."""


@dataclass(frozen=True)
class Report:
    """Report of a node on a job that has ended."""

    changes: dict[str, Any]
    """Changes.to_json()"""
    fetched: int
    """Bytes that the node fetched; less than the job reads, where the node had some."""
    sent: int
    """Bytes that it sent."""
    seconds: float
    """Seconds to fetch and send."""


class Exchange:
    """The command's end: sends what jobs read, and writes what they have made into the output folder."""

    def __init__(self, settings: Ray, store: ObjectStore):
        self._settings = settings
        self.store = store
        self._sent = self._fetched = self._returned = self._received = 0
        self._jobs, self._seconds = 0, 0.0

    def errand(self, job: Job, again: bool) -> Errand:
        """Sends what a job reads. `again`: it is tried again, so an earlier try may have left a state since."""
        output = Path(job.payload["output"])
        reads, state = reads_of(job), state_of(job)
        if again:
            self.store.look()
        so_far = self._so_far(state) if state in self.store.states else Changes({})
        size = sum(blob.size for blob in reads.values() if not self.store.knows([blob]))
        if size > TOLD:
            info(_("store: {size} to send to {url}").format(size=_size(size), url=self._settings.store))
        started = time.perf_counter()
        self._sent += self.store.put_tree(output, reads)
        self._seconds += time.perf_counter() - started
        settings = self._settings
        words = (state, settings.keep, settings.cache * 1e9, str(output))
        return Errand(settings.store, so_far.of(reads), so_far, *words)

    def receive(self, job: Job, report: Report) -> None:
        """Writes what a job has made into its output folder. A file that is there already stays."""
        output, changes = Path(job.payload["output"]), Changes.from_json(report.changes)
        started = time.perf_counter()
        missing = {name: blob for name, blob in changes.files.items() if not _is(output / name, blob)}

        def get(name: str) -> None:
            path = output / name
            path.parent.mkdir(parents=True, exist_ok=True)
            self.store.get(missing[name], path, name)

        # As jobs do it: notes after what they tell of, what is over after what takes its place, the result last.
        for are_meant in (_is_file, _is_note):
            names = [name for name in missing if are_meant(name)]
            object_store.side_by_side([_call(get, name) for name in names], lambda: None)
        for name in changes.removed:
            (output / name).unlink(missing_ok=True)
        for name in sorted(name for name in missing if Path(name).name == RESULT):
            get(name)
        for name in changes.removed:
            _remove_empty(output, (output / name).parent)
        self.store.note(changes.files.values())
        if (state := state_of(job)) is not None:
            self.store.remove(f"states/{state}.json")
            self.store.states.discard(state)
        self._jobs += 1
        self._received += sum(blob.size for blob in missing.values())
        self._fetched, self._returned = self._fetched + report.fetched, self._returned + report.sent
        self._seconds += time.perf_counter() - started + report.seconds

    def tell(self) -> None:
        """Tells what was exchanged since the last time."""
        if self._jobs:
            told = _(
                "store: {sent} sent and {received} received here, {fetched} fetched and {returned} sent by nodes, in "
                "{seconds:.1f} s ({jobs} jobs)"
            )
            sizes = {"sent": self._sent, "received": self._received, "fetched": self._fetched}
            sizes = {name: _size(n) for name, n in {**sizes, "returned": self._returned}.items()}
            info(told.format(jobs=self._jobs, seconds=self._seconds, **sizes))
        self._sent = self._fetched = self._returned = self._received = self._jobs = 0
        self._seconds = 0.0

    def _so_far(self, state: str) -> Changes:
        """Returns what an earlier try of a job has left in the store; nothing, with a warning, if it is of no use."""
        place = f"states/{state}.json"
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            changes = Changes.from_json(json.loads(self.store.read(place) or b""))
            if self.store.knows(changes.files.values()):
                return changes
        told = _("store: what {place} notes of a job cannot be read, or is no longer there: the job begins anew")
        warn(told.format(place=place))
        return Changes({})


def reads_of(job: Job) -> Tree:
    """Finds what a job reads. Raises UserError for a job that has not declared it (executors.reads)."""
    module, name = job.function.split(":")
    declared = getattr(getattr(importlib.import_module(module), name), "reads", None)
    if declared is None or "output" not in job.payload:
        told = _("{name}: this job cannot be sent to machines that share no folder. Run it with executor=local")
        raise UserError(told.format(name=job.name))
    return object_store.tree_of(Path(job.payload["output"]), declared(job.payload))


def state_of(job: Job) -> str | None:
    """Name of the state of a job in the store; None for one without fingerprint, whose payload does not stand for all
    that it depends on."""
    if "fingerprint" not in job.payload:
        return None
    payload = {key: value for key, value in job.payload.items() if key != "output"}
    return hashlib.sha256(json.dumps([job.function, payload], sort_keys=True).encode()).hexdigest()


def _is(path: Path, blob: Blob) -> bool:
    return path.is_file() and path.stat().st_size == blob.size and storage.file_sha256(path) == blob.sha256


def _is_note(name: str) -> bool:
    return Path(name).suffix == ".json" and Path(name).name != RESULT


def _is_file(name: str) -> bool:
    return Path(name).suffix != ".json"


def _call(function: Callable[[str], object], name: str) -> Callable[[], object]:
    return lambda: function(name)


def _remove_empty(output: Path, folder: Path) -> None:
    """Removes a folder that has become empty, and those above it, up to the output folder."""
    while folder != output and folder.is_relative_to(output):
        try:
            folder.rmdir()
        except OSError:  # there is something in it, or it has gone
            return
        folder = folder.parent


def _size(n: int) -> str:
    return f"{n / 1e6:,.1f} MB"


class Stay:
    """The node's end: the files of one job, as long as it runs there."""

    def __init__(self, errand: Errand, folder: Path, fetched: dict[str, Unchanged], n_fetched: int, seconds: float):
        self.folder = folder
        """Output folder of the job."""
        self._errand, self._unchanged = errand, fetched
        self._fetched, self._sent, self._seconds = n_fetched, 0, seconds
        self._store = object_store.opened(errand.store)
        self._kept: set[Blob] = set(errand.so_far.files.values())
        """Objects of the state that is in the store."""
        self._given = {blob for name, blob in errand.reads.items() if name not in errand.so_far.files}
        self._kept_at = time.monotonic()

    def words(self, text: str) -> str:
        """Names the real output folder in a message of the job."""
        return text.replace(str(self.folder), self._errand.output)

    def keep(self, beat: Beat, now: bool = False) -> None:
        """Sends the state of a job that trains, if it is time, or `now`."""
        if self._errand.state is not None and (now or time.monotonic() - self._kept_at >= self._errand.keep):
            self.send(beat)
            self._kept_at = time.monotonic()

    def send(self, beat: Beat) -> Report:
        """Sends what the job has changed, and notes it as the job's state."""
        started = time.perf_counter()
        here = object_store.changes_of(self.folder, self._errand.reads, self._unchanged)
        changes = self._errand.so_far.then(here)
        self._sent += self._store.put_tree(self.folder, here.files, beat)
        if self._errand.state is not None:
            note = json.dumps(changes.to_json()).encode()
            self._store.write(f"states/{self._errand.state}.json", note)
            current = set(changes.files.values())
            for blob in self._kept - current - self._given:
                self._store.remove(object_store.place_of(blob))
                self._store.forget(blob)
            self._kept = current
        self._seconds += time.perf_counter() - started
        return Report(changes.to_json(), self._fetched, self._sent, round(self._seconds, 3))


@contextlib.contextmanager
def stay(errand: Errand, beat: Beat) -> Iterator[Stay]:
    """Lays out what a job reads, in a folder that goes with the context. Objects come from the node's cache, or from
    the store."""
    home = temporaries.own_folder("store", tempfile.gettempdir())
    store, cache = object_store.opened(errand.store), NodeCache(home, errand.cache)
    with temporaries.scratch(home / "jobs") as place:
        started = time.perf_counter()
        # Checksums of arrays cover the name of their folder, so the output folder keeps its name.
        folder = place / (Path(errand.output).name or "output")
        folder.mkdir()
        fetched = cache.get_tree(store, errand.reads, folder, beat)
        unchanged = {name: Unchanged.of(folder / name) for name in errand.reads}
        yield Stay(errand, folder, unchanged, fetched, time.perf_counter() - started)


def see_store(url: str, place: str, text: str) -> str:
    """Looks from a node at an object that the command has written. Returns what is wrong; empty: nothing."""
    try:
        found = object_store.opened(url).read(place)
    except UserError as error:
        return str(error)
    told = _(
        "ray.store={url}: it is not the store that the command sees. Set the same AWS_ENDPOINT_URL on all machines"
    )
    return "" if found == text.encode() else str(told.format(url=url))
