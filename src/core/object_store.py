"""Object store through which machines exchange files: ray.store=s3://bucket/prefix, see docs/distributed.md.

An object is named by the SHA-256 of its content. So what is there is never sent again, a job that runs twice does no
harm, and whoever reads an object knows whether it is whole. fsspec, which is imported by nothing without that setting,
finds credentials in the environment; none are written anywhere.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import hashlib
import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from src.core import locks, storage, temporaries
from src.core.errors import UserError
from src.core.language import _
from src.core.temporaries import TemporaryFile

INSTALL = ".venv/bin/pip install -r docs/requirements-store.txt"
SIDE_BY_SIDE = 8
"""Objects that are sent or fetched at a time."""
BEAT = 2.0
"""Seconds after which whoever waits for objects gives a sign of life."""
TRIES = 2
"""Times that an object is fetched before it counts as damaged."""
FAULTS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("fsspec.exceptions", "FSTimeoutError"),
)
"""Exceptions of the libraries, beside OSError, for a store that cannot be used."""
NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"}
NO_BUCKET = {"FileNotFoundError", "NoSuchBucket"}
REMEDIES = {
    "credentials": _(
        "there are no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile, for this command and "
        "before `ray start` on each node"
    ),
    "refused": _(
        "it refuses these credentials. They must be right, and allow to list, read, write and delete there, on all "
        "machines"
    ),
    "missing": _("there is no such bucket. Make it, or name another: ray.store=s3://BUCKET/PREFIX"),
    "unreachable": _(
        "it cannot be reached. Look at the network, and at AWS_ENDPOINT_URL where the store is not Amazon's"
    ),
}


class Blob(NamedTuple):
    """One object."""

    sha256: str
    size: int
    """Bytes."""


Tree = dict[str, Blob]
"""Files of a folder, by their places in it."""
Beat = Callable[[], object]
"""Called every BEAT seconds, and may raise to end what it waits for."""


@dataclass(frozen=True)
class Changes:
    """Changes that a job has made in its copy of the output folder."""

    files: Tree
    removed: tuple[str, ...] = ()

    def then(self, later: Changes) -> Changes:
        """Returns these changes and `later` ones as one."""
        files = {name: blob for name, blob in self.files.items() if name not in later.removed}
        removed = (set(self.removed) | set(later.removed)) - later.files.keys()
        return Changes({**files, **later.files}, tuple(sorted(removed)))

    def of(self, tree: Mapping[str, Blob]) -> Tree:
        """Returns the tree as it is after these changes."""
        return {name: blob for name, blob in {**tree, **self.files}.items() if name not in self.removed}

    def to_json(self) -> dict[str, Any]:
        return {"files": {name: list(blob) for name, blob in self.files.items()}, "removed": list(self.removed)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Changes:
        """Raises ValueError for a name that leads out of the folder."""
        files = {name: Blob(str(sha256), int(size)) for name, (sha256, size) in value["files"].items()}
        for name in (*files, *value["removed"]):
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ValueError(f"{name} leads out of the output folder")
        return cls(files, tuple(value["removed"]))


class Unchanged(NamedTuple):
    """State of a file that was fetched; whoever writes makes a new one, with another number."""

    inode: int
    size: int
    changed: int
    """Nanoseconds."""

    @classmethod
    def of(cls, path: Path) -> Unchanged:
        state = path.stat()
        return cls(state.st_ino, state.st_size, state.st_mtime_ns)


def check_installed(url: str) -> None:
    """Raises UserError where the library for a store is not installed, or fsspec knows no such kind of store."""
    kind = url.split("://")[0]
    if importlib.util.find_spec("fsspec") is not None:
        from fsspec.registry import known_implementations

        if kind not in known_implementations:
            told = _("ray.store={url}: no kind of store is called {kind}. Name one such as s3://BUCKET/PREFIX")
            raise UserError(told.format(url=url, kind=kind))
        if importlib.util.find_spec(known_implementations[kind]["class"].split(".")[0]) is not None:
            return
    raise UserError(_("ray.store={url} needs a library. Install it with: {install}").format(url=url, install=INSTALL))


@functools.cache
def opened(url: str) -> ObjectStore:
    """The store at a URL, opened once a process."""
    return ObjectStore(url)


class ObjectStore:
    """Objects below objects/, and notes of jobs that are under way, below states/."""

    def __init__(self, url: str):
        check_installed(url)
        import fsspec

        self.url = url.rstrip("/")
        with self._usable():
            self._files, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        self._root = root.rstrip("/")
        self._known: dict[str, int] = {}
        """Sizes of the objects that are known to be there, by their names."""
        self.states: set[str] = set()
        """Names of the notes that were there when the store was looked at."""

    def look(self) -> None:
        """Finds what is there. Raises UserError, with the remedy, for a store that cannot be used."""
        with self._usable():
            for folder in ("objects", "states"):
                found = self._files.find(f"{self._root}/{folder}", detail=True)
                sizes = {path.rsplit("/", 1)[-1]: about["size"] for path, about in found.items()}
                if folder == "objects":
                    self._known = sizes
                else:
                    self.states = {name.removesuffix(".json") for name in sizes}

    def write(self, place: str, content: bytes | Path) -> None:
        """Writes an object, whole. `place`: its path in the store; `content`: the bytes, or a file that holds them."""
        path = f"{self._root}/{place}"
        with self._usable():
            if "file" in self._files.protocol:  # fsspec would write a local file in place, where others may read it
                target = Path(path)
                target.parent.mkdir(parents=True, exist_ok=True)
                with TemporaryFile(target) as file:
                    if isinstance(content, Path):
                        shutil.copyfile(content, file.path)
                    else:
                        file.path.write_bytes(content)
                    file.replace(target)
            elif isinstance(content, Path):
                self._files.put_file(str(content), path)
            else:
                self._files.pipe_file(path, content)

    def read(self, place: str) -> bytes | None:
        """Reads a small object; None where there is none."""
        with self._usable():
            try:
                return self._files.cat_file(f"{self._root}/{place}")
            except FileNotFoundError:
                return None

    def remove(self, place: str) -> None:
        """Removes an object, if it is there."""
        with self._usable(), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{place}")

    def put_tree(self, folder: Path, tree: Mapping[str, Blob], beat: Beat = lambda: None) -> int:
        """Sends the files of a folder whose content is not there yet. Returns the bytes that were sent."""
        missing = {blob: name for name, blob in tree.items() if self._known.get(blob.sha256) != blob.size}

        def put(blob: Blob, name: str) -> None:
            self.write(place_of(blob), folder / name)
            self._known[blob.sha256] = blob.size

        side_by_side([functools.partial(put, blob, name) for blob, name in missing.items()], beat)
        return sum(blob.size for blob in missing)

    def get(self, blob: Blob, path: Path, name: str) -> None:
        """Writes an object to `path`, whole; `name`: of its file, for messages.

        Raises UserError for an object that is missing or damaged, and for a full disk.
        """
        place = place_of(blob)
        for _try in range(TRIES):
            with TemporaryFile(path) as file:
                with self._usable():
                    try:
                        self._files.get_file(f"{self._root}/{place}", str(file.path))
                    except FileNotFoundError:
                        self.forget(blob)
                        told = _(
                            "{name}: the object {place} has gone from {url}. Run the same command again, which sends "
                            "it anew; let nothing delete objects while commands run"
                        )
                        raise UserError(told.format(name=name, place=place, url=self.url)) from None
                    except OSError as error:
                        if error.errno in temporaries.FULL:
                            raise storage.unwritable(path, error, blob.size) from None
                        raise
                if hashlib.file_digest(file, "sha256").hexdigest() == blob.sha256:
                    storage.flush(file.fileno())
                    file.replace(path)
                    return
        told = _(
            "{name}: the object {place} in {url} is damaged: its content is not what its name says. Delete it there "
            "and run the same command again, which sends it anew"
        )
        raise UserError(told.format(name=name, place=place, url=self.url))

    def knows(self, blobs: Iterable[Blob]) -> bool:
        """Returns True if all objects are known to be there."""
        return all(self._known.get(blob.sha256) == blob.size for blob in blobs)

    def note(self, blobs: Iterable[Blob]) -> None:
        """Notes that objects are there."""
        self._known |= {blob.sha256: blob.size for blob in blobs}

    def forget(self, blob: Blob) -> None:
        """Notes that an object was removed."""
        self._known.pop(blob.sha256, None)

    @contextlib.contextmanager
    def _usable(self) -> Iterator[None]:
        """Turns what the libraries raise for a store that cannot be used into a UserError with the remedy."""
        try:
            yield
        except UserError:
            raise
        except (*_faults(), OSError) as error:
            raise UserError(
                _("ray.store={url}: {remedy} ({reason})").format(
                    url=self.url, remedy=_remedy(error), reason=_one(error)
                )
            ) from None


def _faults() -> tuple[type[Exception], ...]:
    """Exceptions of the libraries that are loaded."""
    return tuple(getattr(sys.modules[module], name) for module, name in FAULTS if module in sys.modules)


def _remedy(error: Exception) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & NO_CREDENTIALS:
        return REMEDIES["credentials"]
    if isinstance(error, PermissionError):
        return REMEDIES["refused"]
    return REMEDIES["missing" if kinds & NO_BUCKET else "unreachable"]


def _one(error: Exception) -> str:
    """First line of an error's text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).removesuffix(".")


def place_of(blob: Blob) -> str:
    """Path of an object in the store."""
    return f"objects/{blob.sha256}"


def side_by_side(calls: Collection[Callable[[], object]], beat: Beat) -> None:
    """Makes calls in threads, and raises what the first that fails raises, once those that run have ended."""
    if not calls:
        return
    with futures.ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        waiting = {pool.submit(call) for call in calls}
        try:
            while waiting:
                done, waiting = futures.wait(waiting, BEAT, futures.FIRST_EXCEPTION)
                for one in done:
                    one.result()
                beat()
        finally:
            for one in waiting:
                one.cancel()


def tree_of(folder: Path, references: Iterable[str]) -> Tree:
    """Finds files of a folder with their checksums.

    `references`: FILE; FOLDER/ for the files directly in it; FOLDER/** for all below it; BEGINNING* for the files whose
    names begin so. What is not there is left out: whoever reads it tells of it. Raises UserError for a file that does
    not lie in the folder.
    """
    found = {}
    for reference in references:
        if Path(reference).is_absolute():
            told = _("{path} does not lie in {folder}. With ray.store jobs read what lies there alone: copy it there")
            raise UserError(told.format(path=reference, folder=folder))
        for path in _matches(folder, reference):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and not is_passing(name):
                found[name] = Blob(storage.file_sha256(path), path.stat().st_size)
    return found


def _matches(folder: Path, reference: str) -> Iterable[Path]:
    for end, pattern in (("/**", "/**/*"), ("/", "/*"), ("*", "*")):
        if reference.endswith(end):
            return folder.glob(glob.escape(reference.removesuffix(end)) + pattern)
    return [folder / reference]


def is_passing(name: str) -> bool:
    """Returns True for lock files, and for files and folders that are temporary: they mean nothing elsewhere."""
    return name.endswith(".lock") or any(part.endswith(".tmp") for part in name.split("/"))


def changes_of(folder: Path, tree: Mapping[str, Blob], fetched: Mapping[str, Unchanged]) -> Changes:
    """Compares a folder with the tree that was fetched into it, and with the state of its files then."""
    files, there = {}, set()
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not is_passing(name):
            there.add(name)
            if name not in fetched or Unchanged.of(path) != fetched[name]:
                blob = Blob(storage.file_sha256(path), path.stat().st_size)
                if tree.get(name) != blob:
                    files[name] = blob
    return Changes(files, tuple(sorted(tree.keys() - there)))


class NodeCache:
    """Objects that a node has fetched, by their names. Several workers share it: one fetches an object, and others that
    want it wait. What was not used for longest goes when it grows too large."""

    def __init__(self, folder: Path, most: float):
        """`most`: bytes that are kept; more only as long as jobs read it."""
        self._folder, self._most = folder, most

    def get_tree(self, store: ObjectStore, tree: Mapping[str, Blob], folder: Path, beat: Beat) -> int:
        """Lays out a tree in a folder. Returns the bytes that were fetched for it."""
        fetched: list[int] = []
        calls = [functools.partial(self._lay, store, blob, folder / name, name, fetched) for name, blob in tree.items()]
        side_by_side(calls, beat)
        self._clean()
        return sum(fetched)

    def _lay(self, store: ObjectStore, blob: Blob, path: Path, name: str, fetched: list[int]) -> None:
        kept = self._path(blob.sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked(blob.sha256):
            if not kept.exists() or kept.stat().st_size != blob.size:
                store.get(blob, kept, name)
                kept.chmod(0o444)  # jobs share it: they put new files in its place, and never write into it
                fetched.append(blob.size)
            state = kept.stat()
            os.utime(kept, ns=(time.time_ns(), state.st_mtime_ns))
            try:
                os.link(kept, path)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV):
                    raise
                shutil.copyfile(kept, path)  # a file system without links

    def _clean(self) -> None:
        """Removes objects until those that are left are few enough."""
        kept = []
        for path in self._folder.glob("objects/*/*"):
            with contextlib.suppress(FileNotFoundError):  # another worker removes some, too
                if not is_passing(path.name):
                    kept.append((path, path.stat()))
        size = sum(state.st_size for _path, state in kept)
        for path, state in sorted(kept, key=lambda one: one[1].st_atime_ns):
            if size <= self._most:
                return
            with self._locked(path.name), contextlib.suppress(FileNotFoundError):
                if path.stat().st_nlink == 1:  # else a job reads it
                    path.unlink()
                    size -= state.st_size

    def _path(self, sha256: str) -> Path:
        return self._folder / "objects" / sha256[:2] / sha256

    def _locked(self, sha256: str) -> contextlib.AbstractContextManager[None]:
        path = self._path(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        return locks.lock(self._folder / "locks" / f"{sha256[:2]}.lock")
