"""Exchange of files through an object store: what is sent, fetched, kept and written, and what goes wrong."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pytest

from src.core import errands, object_store, ray_cluster, ray_executor, settings, storage
from src.core.executors import Failure, Job, LocalProcesses, reads
from src.core.object_store import Blob, Changes, NodeCache, ObjectStore
from src.core.settings_loader import load_config
from src.data.synthetic_stays import make_sample as make_stays
from src.pipeline import file_prediction
from tests.conftest import error_of, run_command, words
from tests.same_bytes import results
from tests.test_file_prediction import reports_of

HERE = "tests.test_object_store"


def blob(content: bytes) -> Blob:
    return Blob(hashlib.sha256(content).hexdigest(), len(content))


def fill(folder: Path, **files: str) -> dict[str, Blob]:
    """Writes text files, `a__b` as a/b, and returns their tree."""
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {name.replace("__", "/"): blob(text.encode()) for name, text in files.items()}


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path):
    """A store of its own for a test."""
    object_store.opened.cache_clear()
    yield f"memory://{tmp_path}" if request.param == "memory" else f"file://{tmp_path}/store"
    fsspec.filesystem("memory").store.clear()
    object_store.opened.cache_clear()


def test_words_of_a_store():
    config = load_config("sample", ["executor=ray", "ray.store=s3://bucket/prefix", "ray.keep=5"], ["lstm"])
    assert (config.executor.ray.store, config.executor.ray.keep) == ("s3://bucket/prefix", 5)
    for wrong in ("s3://key:password@bucket/prefix", "s3://bucket?key=password", "/folder", "bucket"):
        told = error_of(load_config, "sample", [f"ray.store={wrong}"], ["lstm"])
        assert "AWS_SECRET_ACCESS_KEY" in told and "password@" not in told


def test_without_the_library_the_error_names_the_remedy(monkeypatch):
    assert "no kind of store is called nonsense" in error_of(object_store.check_installed, "nonsense://a")
    monkeypatch.setattr(object_store.importlib.util, "find_spec", lambda name: None if name == "s3fs" else True)
    assert "docs/requirements-store.txt" in error_of(object_store.check_installed, "s3://bucket")
    object_store.check_installed("file:///folder")


def test_names_of_what_is_read(tmp_path):
    tree = fill(tmp_path, a__one="1", a__two="2", a__below__three="3", a__job="4", b="5")
    fill(tmp_path, **{"a__job.lock": "", "a__.one.12.tmp": "", "a__.x.tmp__file": ""})
    found = {
        reference: set(object_store.tree_of(tmp_path, [reference]))
        for reference in ("b", "a/", "a/**", "a/t*", "a/one", "none", "none/", "none/**", "a/*")
    }
    assert found["b"] == {"b"} and found["a/one"] == {"a/one"} and found["a/t*"] == {"a/two"}
    assert found["a/"] == found["a/*"] == {"a/one", "a/two", "a/job"}
    assert found["a/**"] == {"a/one", "a/two", "a/job", "a/below/three"}
    assert not found["none"] | found["none/"] | found["none/**"]
    assert object_store.tree_of(tmp_path, ["a/**", "b"]) == tree
    assert "does not lie in" in error_of(object_store.tree_of, tmp_path, [str(tmp_path / "b")])


def test_changes_follow_each_other():
    one, two, three = (Blob(name, 1) for name in "123")
    first, later = Changes({"a": one, "b": one}, ("c", "d")), Changes({"b": two, "c": three}, ("a",))
    both = first.then(later)
    assert both == Changes({"b": two, "c": three}, ("a", "d"))
    tree = {"c": one, "d": one, "e": one}
    assert later.of(first.of(tree)) == both.of(tree) == {"b": two, "c": three, "e": one}
    assert Changes.from_json(json.loads(json.dumps(both.to_json()))) == both
    for name in ("/etc/passwd", "../other", "a/../../other"):
        with pytest.raises(ValueError, match="leads out"):
            Changes.from_json({"files": {name: ["1", 1]}, "removed": []})
        with pytest.raises(ValueError, match="leads out"):
            Changes.from_json({"files": {}, "removed": [name]})


def test_content_is_sent_once_and_fetched_whole(tmp_path, url):
    here, there = tmp_path / "here", tmp_path / "there"
    tree = fill(here, a="same", b__c="same", d="other")
    store = ObjectStore(url)
    store.look()
    assert store.put_tree(here, tree) == 9, "equal files are one object"
    assert store.put_tree(here, tree) == 0
    again = ObjectStore(url)
    again.look()
    assert again.knows(tree.values()) and again.put_tree(here, tree) == 0, "another command sends nothing anew"
    there.mkdir()
    again.get(tree["b/c"], there / "c", "b/c")
    assert (there / "c").read_text() == "same" and [path.name for path in there.iterdir()] == ["c"]
    assert store.read("states/none.json") is None
    store.write("states/one.json", b"text")
    again.look()
    assert again.states == {"one"} and again.read("states/one.json") == b"text"
    store.remove("states/one.json")
    store.remove("states/one.json")
    again.look()
    assert again.states == set() and again.knows(tree.values())


def test_an_object_that_is_missing_or_damaged_is_told_of(tmp_path, url):
    tree, store = fill(tmp_path, a="text"), ObjectStore(url)
    store.put_tree(tmp_path, tree)
    place = object_store.place_of(tree["a"])
    store.write(place, b"tex?")
    told = error_of(store.get, tree["a"], tmp_path / "got", "a")
    assert f"the object {place} in {url} is damaged" in told and "Delete it there" in told
    store.remove(place)
    told = error_of(store.get, tree["a"], tmp_path / "got", "a")
    assert f"{place} has gone from {url}. Run the same command again" in told
    assert not (tmp_path / "got").exists() and not list(tmp_path.glob(".*.tmp"))
    assert store.put_tree(tmp_path, tree) == 4, "what has gone is sent anew"


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (PermissionError("Forbidden"), "refuses these credentials"),
        (FileNotFoundError("The specified bucket does not exist"), "there is no such bucket"),
        (ConnectionRefusedError("refused"), "cannot be reached"),
        (TimeoutError(), "cannot be reached"),
    ],
)
def test_what_is_wrong_with_a_store(tmp_path, monkeypatch, error, remedy):
    def fail(*args, **words):
        raise error

    store = ObjectStore(f"memory://{tmp_path}")
    monkeypatch.setattr(store._files, "find", fail, raising=False)
    monkeypatch.setattr(store._files, "pipe_file", fail, raising=False)
    assert remedy in error_of(store.look) and remedy in error_of(store.write, "nodes/a", b"text")


def test_a_full_disk_is_told_of(tmp_path, url, monkeypatch):
    tree, store = fill(tmp_path, a="text"), ObjectStore(url)
    store.put_tree(tmp_path, tree)

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store._files, "get_file", fail, raising=False)
    told = error_of(store.get, tree["a"], tmp_path / "got", "a")
    assert "got cannot be written: No space left on device. It needs 4 bytes" in told


class Counted(ObjectStore):
    def __init__(self, url):
        super().__init__(url)
        self.fetched = []

    def get(self, blob, path, name):
        self.fetched.append(name)
        time.sleep(0.05)
        super().get(blob, path, name)


def test_workers_of_a_node_fetch_an_object_once(tmp_path, url):
    tree, store = fill(tmp_path / "here", a="1", b__c="22", d="1"), Counted(url)
    store.put_tree(tmp_path / "here", tree)
    cache = NodeCache(tmp_path / "node", 1e9)
    threads = [
        threading.Thread(target=cache.get_tree, args=(store, tree, tmp_path / "jobs" / str(i), lambda: None))
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.fetched) == 2, "two contents"
    for i in range(4):
        assert (tmp_path / "jobs" / str(i) / "b" / "c").read_text() == "22"
        assert (tmp_path / "jobs" / str(i) / "d").read_text() == "1"
    (kept,) = (tmp_path / "node").glob(f"objects/*/{tree['a'].sha256}")
    kept.unlink()
    kept.write_text("")  # as a power cut may leave it
    cache.get_tree(store, tree, tmp_path / "more", lambda: None)
    assert (tmp_path / "more" / "a").read_text() == "1" and len(store.fetched) == 3


def test_a_cache_keeps_what_was_used_last(tmp_path, url):
    names = [f"file_{i}" for i in range(5)]
    tree, store = fill(tmp_path / "here", **{name: name * 100 for name in names}), Counted(url)
    store.put_tree(tmp_path / "here", tree)
    cache = NodeCache(tmp_path / "node", 3 * 600)
    for i, name in enumerate([*names[:3], names[0], *names[3:]]):
        folder = tmp_path / "job" / str(i)
        cache.get_tree(store, {name: tree[name]}, folder, lambda: None)
        if name != names[2]:
            (folder / name).unlink()  # that job has ended
    kept = {path.name for path in (tmp_path / "node").glob("objects/*/*")}
    assert kept == {tree[name].sha256 for name in names[2:]}, "the third stays, as a job reads it"


# Errands


def grow(payload, progress):
    """A job that adds a line in each of its steps, goes on where it was, and ends with a result."""
    folder = Path(payload["output"]) / payload["folder"]
    start = (Path(payload["output"]) / payload["start"]).read_text()
    steps = sorted(folder.glob("state_*"))
    text = steps[-1].read_text() if steps else start
    for step in range(len(steps) and int(steps[-1].name[6:]) + 1, payload["steps"]):
        text += f"{step}\n"
        storage.write_text(folder / f"state_{step}", text)
        (folder / f"state_{step - 1}").unlink(missing_ok=True)
        log = folder / "log"
        storage.write_text(log, (log.read_text() if log.exists() else "") + f"{step} ")
        progress({"step": step})
    storage.write_text(folder / "text", text)
    for path in folder.glob("state_*"):
        path.unlink()
    storage.write_text(folder / "result.json", "{}")


grow = reads(lambda payload: [payload["start"], f"{payload['folder']}/**"])(grow)


def undeclared(payload, progress):
    raise AssertionError


class Killed(Exception):
    pass


@dataclass
class Far:
    """A machine far from the command, and the command's end of the exchange with it."""

    url: str
    output: Path
    keep: float = 0.0

    def __post_init__(self):
        store = object_store.opened(self.url)
        store.look()
        self.exchange = errands.Exchange(settings.Ray(store=self.url, keep=self.keep), store)

    def job(self, name: str = "grow", steps: int = 4, **more) -> Job:
        payload = {"output": str(self.output), "start": "start", "folder": "runs/a", "steps": steps, **more}
        return Job(name, f"{HERE}:{name}", payload)

    def run(self, job: Job, killed_after: int = 99, again: bool = False) -> errands.Report:
        def told(news):
            stay.keep(lambda: None)
            if news["step"] >= killed_after:
                raise Killed

        with errands.stay(self.exchange.errand(job, again), lambda: None) as stay:
            grow({**job.payload, "output": str(stay.folder)}, told)
            return stay.send(lambda: None)


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.fixture
def far(url, tmp_path, monkeypatch):
    monkeypatch.setattr(errands.tempfile, "tempdir", str(tmp_path))
    fill(tmp_path / "output", start="begin\n")
    return Far(url, tmp_path / "output")


def test_a_job_gives_what_it_would_give_here(far, tmp_path):
    fill(tmp_path / "near", start="begin\n", runs__a__state_0="begin\n0\n", runs__a__log="0 ")
    fill(tmp_path / "output", start="begin\n", runs__a__state_0="begin\n0\n", runs__a__log="0 ")
    job = far.job()
    grow({**job.payload, "output": str(tmp_path / "near")}, lambda news: None)
    report = far.run(job)
    assert "runs/a/state_0" in tree(far.output), "nothing is written before it is received"
    far.exchange.receive(job, report)
    assert tree(far.output) == tree(tmp_path / "near")
    assert far.exchange.store.read(f"states/{errands.state_of(job)}.json") is None
    (home,) = tmp_path.glob("run.sh-*-store")
    assert list((home / "jobs").iterdir()) == [], "its folder has gone"


def test_a_job_that_was_killed_goes_on_from_its_state(far, tmp_path):
    job = far.job(fingerprint="1")
    with pytest.raises(Killed):
        far.run(job, killed_after=2)
    assert not (far.output / "runs").exists()
    object_store.opened.cache_clear()
    later = Far(far.url, far.output)  # another command, too, finds it
    later.exchange.receive(job, later.run(job))
    assert tree(far.output)["runs/a/log"] == "0 1 2 3 "
    assert tree(far.output)["runs/a/text"] == "begin\n0\n1\n2\n3\n" and not list(far.output.rglob("state_*"))
    later.exchange.store.look()
    assert later.exchange.store.states == set()
    names = {place_name for place_name in later.exchange.store._known}
    assert names == {blob(text.encode()).sha256 for text in tree(far.output).values()}, "states that are over have gone"


def test_a_job_without_fingerprint_begins_anew(far):
    job = far.job()
    with pytest.raises(Killed):
        far.run(job, killed_after=2)
    far.exchange.receive(job, far.run(job, again=True))
    assert tree(far.output)["runs/a/log"] == "0 1 2 3 "
    assert far.exchange.store.states == set()


def test_a_state_of_which_something_has_gone_is_not_used(far, capsys):
    job = far.job(fingerprint="1")
    with pytest.raises(Killed):
        far.run(job, killed_after=2)
    note = json.loads(far.exchange.store.read(f"states/{errands.state_of(job)}.json"))
    far.exchange.store.remove(f"objects/{note['files']['runs/a/state_2'][0]}")
    far.exchange.receive(job, far.run(job, again=True))
    assert tree(far.output)["runs/a/log"] == "0 1 2 3 " and "the job begins anew" in capsys.readouterr().err
    with pytest.raises(Killed):
        far.run(far.job(fingerprint="2", folder="runs/b"), killed_after=2)
    far.exchange.store.write(f"states/{errands.state_of(far.job(fingerprint='2', folder='runs/b'))}.json", b"[1")
    other = far.job(fingerprint="2", folder="runs/b")
    far.exchange.receive(other, far.run(other, again=True))
    assert tree(far.output)["runs/b/log"] == "0 1 2 3 "


def test_a_job_that_runs_twice_does_no_harm(far):
    job = far.job(fingerprint="1")
    first, second = far.run(job), far.run(job)
    far.exchange.receive(job, first)
    before = {path: path.stat().st_ino for path in far.output.rglob("*")}
    far.exchange.receive(job, second)
    assert {path: path.stat().st_ino for path in far.output.rglob("*")} == before, "what is there already stays"


def test_a_result_comes_last(far, monkeypatch):
    """The command dies before it writes the result: all else is as the job left it."""
    fill(far.output, runs__a__state_0="begin\n0\n")
    job = far.job()
    report = far.run(job)
    get = ObjectStore.get

    def killed(self, one, path, name):
        if name.endswith("result.json"):
            raise KeyboardInterrupt
        get(self, one, path, name)

    monkeypatch.setattr(ObjectStore, "get", killed)
    with pytest.raises(KeyboardInterrupt):
        far.exchange.receive(job, report)
    assert set(tree(far.output)) == {"start", "runs/a/text", "runs/a/log"}
    monkeypatch.setattr(ObjectStore, "get", get)
    far.exchange.receive(job, report)
    assert (far.output / "runs/a/result.json").exists() and not (far.output / "runs/a/state_0").exists()


def test_a_job_that_has_not_declared_its_files_is_refused(far):
    told = error_of(far.exchange.errand, far.job("undeclared"), False)
    assert told == "undeclared: this job cannot be sent to machines that share no folder. Run it with executor=local"


def test_sizes_are_told(far, capsys):
    far.exchange.receive(far.job(), far.run(far.job()))
    far.exchange.tell()
    assert "store: 0.0 MB sent and 0.0 MB received here" in capsys.readouterr().out
    far.exchange.tell()
    assert capsys.readouterr().out == ""


# Pipelines


class Afar:
    """Executor in the place of that on a Ray cluster: one job after the other, each with a folder of its own. While a
    job runs, the output folder of the command is not there at all."""

    def __init__(self, wanted, device, n_jobs, deadline=0.0, card_jobs=1):
        self.workers, self.threads = 1, 1
        store = object_store.opened(wanted.ray.store)
        store.look()
        self._exchange = errands.Exchange(wanted.ray, store)

    def run(self, jobs, watcher):
        waiting = list(jobs)
        return self.run_as_they_come(lambda: waiting.pop(0) if waiting else None, watcher)

    def run_as_they_come(self, next_job, watcher):
        failures = []
        while job := next_job():
            failure = self._one(job, watcher)
            failures += [failure] if failure else []
            watcher.finish(job, failure)
        return failures

    def _one(self, job, watcher) -> Failure | None:
        class Passed:
            def step(self, moved, news):
                with at_home():
                    stay.keep(lambda: None)
                    return watcher.step(job, news)

            def finish(self, moved, failure):
                pass

        output = Path(job.payload["output"])
        away = output.with_name(f"{output.name}.away")

        @contextlib.contextmanager
        def at_home():
            away.rename(output)
            try:
                yield
            finally:
                output.rename(away)

        with errands.stay(self._exchange.errand(job, False), lambda: None) as stay:
            moved = Job(job.name, job.function, {**job.payload, "output": str(stay.folder)})
            output.rename(away)
            try:
                failures = LocalProcesses(1, 1).run([moved], Passed())
            finally:
                away.rename(output)
            if failures:
                return Failure(job, stay.words(failures[0].reason))
            self._exchange.receive(job, stay.send(lambda: None))
        return None


@pytest.fixture
def afar(monkeypatch, tmp_path):
    """Words of a command whose jobs run far away."""
    object_store.opened.cache_clear()
    monkeypatch.setattr(ray_executor, "RayExecutor", Afar)
    monkeypatch.setattr(ray_cluster, "check", lambda wanted: None)
    monkeypatch.setattr(errands.tempfile, "tempdir", str(tmp_path))
    yield ["executor=ray", f"ray.store=memory://{tmp_path}", "ray.keep=0"]
    fsspec.filesystem("memory").store.clear()
    object_store.opened.cache_clear()


def test_a_run_has_the_same_bytes_without_a_shared_folder(tmp_path, tiny_input, done, afar):
    output = Path(shutil.copytree(done, tmp_path / "output", copy_function=shutil.copy2))
    for name in ("runs/lstm", "baselines"):
        shutil.rmtree(output / name)
    run_command(["train", "--model", "lstm", *words(tiny_input, output, *afar)])
    run_command(["baselines", *words(tiny_input, output, *afar)])
    made = {name for name in results(done) if name.startswith(("runs/lstm/", "baselines/"))}
    assert results(output) == results(done) and len(made) > 15


@pytest.mark.slow  # by default a run is trained and predicted so
def test_a_large_file_is_predicted_in_shards_without_a_shared_folder(tmp_path, copy, tiny_input, afar, monkeypatch):
    monkeypatch.setattr(file_prediction, "CHUNK", 32)
    given, found = reports_of(tiny_input, 80, tmp_path / "given.csv"), []
    for more in ((), ("predict.shard=32", *afar)):
        run_command(["predict", "blend", str(given), *words(tiny_input, copy, *more)])
        found.append((copy / "prediction_blend_given.csv").read_bytes())
        assert not list((copy / "predictions").iterdir())
    assert found[0] == found[1] and len(found[0].splitlines()) == 80


@pytest.mark.slow
def test_a_pipeline_gives_the_same_bytes_without_a_shared_folder(tmp_path, tiny_input, done, afar):
    run_command(words(tiny_input, tmp_path / "output", *afar))
    assert results(tmp_path / "output") == results(done) and len(results(done)) > 50


TAUGHT = """
folds: {k: 2}
denoise: {by: lstm, views: [raw, soft], in_training: true}
executor: {workers: 1, threads: 1}
explain: {per_label: 1}
baselines: [tfidf]
runs:
  lstm:
    model: {embedding_size: 8, hidden_size: 8}
    pretrain: {epochs: 1, batch_size: 64}
    train: {epochs: 2, batch_size: 64, extra_weight: 0.3}
  student:
    like: lstm
    model: {embedding_size: 8, hidden_size: 8}
    train: {epochs: 1, batch_size: 64, teachers: [lstm]}
"""
"""Preset with an encoder, denoised copies, teachers and explanations."""
INSTITUTIONS = """
folds: {k: 2, scheme: domains}
domains: {by: Gender}
grid: {step: 8}
executor: {workers: 1, threads: 1}
alarms: {hours: [8, 24]}
baselines: [linear]
runs:
  pooled: &b
    like: gru
    model: {embedding_size: 4, hidden_size: 4, bidirectional: false}
    train: {epochs: 1, batch_size: 64}
  fedavg:
    <<: *b
    train: {epochs: 2, batch_size: 64, regime: fedavg}
    regime: {personal: [head]}
  linear: {}
blend: {members: [linear]}
"""
"""Preset with a federation, whose jobs are those of rounds and domains."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["taught", "institutions"])
def test_every_kind_of_job_has_declared_what_it_reads(kind, tmp_path, tiny_input, afar):
    preset = tmp_path / "preset.yaml"
    preset.write_text({"taught": TAUGHT, "institutions": INSTITUTIONS}[kind])
    inputs, task, commands = tiny_input, [], [["pipeline"], ["predict", "lstm", str(next(tiny_input.glob("*testA*")))]]
    if kind == "institutions":
        inputs, task = tmp_path / "input", ["--task", "icu"]
        make_stays(inputs, rows=160, test_rows=20, seed=4)
        verbs = ["baselines", "shift", "train", "blend", "alarms", "domains", "domains adapt --rows 10"]
        commands = [verb.split() for verb in verbs]
    near, far = tmp_path / "near", tmp_path / "far"
    for output, more in ((near, []), (far, afar)):
        for command in commands:
            run_command(
                [*command, *task, "--preset", str(preset), f"paths.input={inputs}", f"paths.output={output}", *more]
            )
    made = results(near)
    assert results(far) == made
    wanted = {
        "taught": ("denoised/", "pretrained/", "runs/student/"),
        "institutions": ("runs/fedavg/", "domains/", "alarms/"),
    }
    assert all(any(part in name for name in made) for part in wanted[kind])
