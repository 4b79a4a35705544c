"""Joining a Ray cluster: Ray and its token, the nodes that there are, and whether they share what jobs exchange.

Ray is imported by the functions that need it, so by nothing without executor=ray. See docs/distributed.md.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib.util
import ipaddress
import logging
import math
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from src.core import errands, interrupts, object_store
from src.core.errors import UserError
from src.core.executors import available_cores
from src.core.language import _
from src.core.settings import ROOT
from src.core.settings import Executor as ExecutorSettings
from src.core.temporaries import TemporaryFile
from src.core.terminal import warn_once

INSTALL = ".venv/bin/pip install -r docs/requirements-ray.txt"
FRESH = 1.0
"""Seconds for which the list of nodes is taken as it was."""
STORE = 100 << 20
"""Bytes of Ray's object store under ray.address=local: jobs read and write files, and put nothing there."""
LOOPBACK_NAMES = ("localhost", "")


def check(settings: ExecutorSettings) -> None:
    """Raises UserError where Ray is not installed, or the cluster may not be joined for want of a token."""
    if importlib.util.find_spec("ray") is None:
        raise UserError(_("executor=ray needs Ray. Install it with: {install}").format(install=INSTALL))
    if settings.ray.store is not None:
        object_store.check_installed(settings.ray.store)
    prepare_token(settings.ray.address)


def prepare_token(address: str) -> str:
    """Sets the environment that Ray reads when it is imported, token authentication included, and returns the address
    to join; local: a cluster of this command alone.

    Raises UserError where there is no cluster, or none that may be joined: a cluster that other machines can reach runs
    whatever it is sent, so it must ask for a token.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    found = address if address != "auto" else _running_cluster()
    has_token = _has_token()
    if found == "local":
        if not has_token:
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        os.environ["RAY_AUTH_MODE"] = "token"
        return found
    if has_token:
        os.environ["RAY_AUTH_MODE"] = "token"
    elif is_loopback(found):
        warn_once(
            _("ray.address={address}: joined without a token, as it is on this machine alone").format(address=found)
        )
        os.environ["RAY_AUTH_MODE"] = "disabled"
        return found
    else:
        raise UserError(
            _(
                "ray.address={address} is not on this machine alone, and there is no token: whoever reaches a Ray "
                "cluster without one can run code on it. Make one with `ray get-auth-token --generate`, copy "
                "~/.ray/auth_token to all nodes, and start each node with RAY_AUTH_MODE=token (docs/distributed.md)"
            ).format(address=found)
        )
    if not is_loopback(found) and _is_open(found):
        raise UserError(
            _(
                "ray.address={address}: this cluster asks for no token, so whoever reaches it can run code on it. "
                "Start each of its nodes anew with RAY_AUTH_MODE=token (docs/distributed.md)"
            ).format(address=found)
        )
    return found


def _running_cluster() -> str:
    """The address that ray.address=auto means. Raises UserError where there is none."""
    if named := os.environ.get("RAY_ADDRESS"):
        return named
    note = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    with contextlib.suppress(OSError):
        if noted := note.read_text(encoding="utf-8").strip():
            return noted
    raise UserError(
        _(
            "ray.address=auto finds no Ray cluster on this machine. Start one with `ray start --head`, or name one: "
            "ray.address=HOST:PORT; ray.address=local is a cluster of this command alone"
        )
    )


def is_loopback(address: str) -> bool:
    """Returns True for HOST:PORT that other machines cannot reach."""
    host = address.rpartition(":")[0].strip("[]")
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host in LOOPBACK_NAMES


def _has_token() -> bool:
    """Returns True where Ray would find a token: in the environment, in a file that it names, or at home."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    file = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(file) if file else Path.home() / ".ray" / "auth_token"
    with contextlib.suppress(OSError):
        return bool(path.read_text(encoding="utf-8").strip())
    return False


def _is_open(address: str) -> bool:
    """Returns True for a cluster that answers without a token, False for one that asks for it: Ray's own health check
    is asked, in a process without one. Raises UserError for a cluster that does neither: nothing is known about it."""
    words = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    environment |= {"RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(words, env=environment, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode and "AuthenticationError" not in done.stderr:
        reason = (done.stderr.strip().splitlines() or [f"health-check: {done.returncode}"])[-1]
        raise UserError(_("ray.address={address}: cannot be joined: {reason}").format(address=address, reason=reason))
    return done.returncode == 0


@functools.cache
def connect(address: str, dashboard: bool) -> Any:
    """Joins a cluster, or starts one, once for a command. Returns the module ray. Raises UserError where it cannot."""
    found = prepare_token(address)
    import ray
    from ray.job_config import JobConfig

    options: dict[str, Any] = {"address": found}
    if found == "local":
        options |= {
            "num_cpus": available_cores(),
            "include_dashboard": dashboard,
            "object_store_memory": STORE,
            "_node_ip_address": "127.0.0.1",
        }
    handlers = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    try:
        ray.init(
            **options,
            # A folder for import, not code that is sent: all nodes have the project at the same path.
            job_config=JobConfig(code_search_path=[str(ROOT)]),
            configure_logging=True,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except Exception as error:  # Ray raises this very class where a node of a busy machine starts too slowly
        told = _("ray.address={address}: cannot be joined: {reason}")
        raise UserError(told.format(address=address, reason=first_line(error))) from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)  # Ray takes SIGTERM for itself
    return ray


def first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).removesuffix(".")


def on_node(node: str) -> Any:
    """Strategy of Ray that places a task on one node and no other."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


def see_folder(folder: str, file: str, text: str) -> str:
    """Looks from a node at a file that the command has written and holds locked. Returns what the shared folder lacks:
    missing, locks (there are none), own locks (each node sees its own) or rename; empty: nothing."""
    try:
        with Path(file).open("r+", encoding="utf-8") as seen:
            if seen.read() != text:
                return "missing"
            try:
                fcntl.flock(seen, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return "own locks"
            except BlockingIOError:
                pass
            except OSError:
                return "locks"
    except OSError:
        return "missing"
    place = Path(folder) / f"{Path(file).name}.{os.getpid()}"
    try:
        for content in (b"old", b"new"):
            with TemporaryFile(place) as written:
                written.write(content)
                written.replace(place)
        return "" if place.read_bytes() == b"new" else "rename"
    except OSError:
        return "rename"
    finally:
        place.unlink(missing_ok=True)


def nodes_of(ray: Any) -> list[dict[str, Any]]:
    """The nodes that are alive, as Ray describes them, or were so less than a second ago: the question takes
    milliseconds, and comes up several times a job."""
    asked, nodes = _asked.get(ray.get_runtime_context().gcs_address, (-math.inf, []))
    if time.monotonic() - asked > FRESH:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        _asked[ray.get_runtime_context().gcs_address] = time.monotonic(), nodes
    return nodes


_asked: dict[str, tuple[float, list[dict[str, Any]]]] = {}
"""When the nodes of a cluster were asked for, of time.monotonic(), and the answer, by the cluster's address."""


_seen: set[tuple[str, str]] = set()
"""Nodes that were asked about a folder or a store."""


def check_storage(ray: Any, folder: Path) -> None:
    """Asks each node, once for a command, whether it sees the output folder of the command, its locks and renamed
    files. Raises UserError where it does not, and warns where the file system has no locks."""
    nodes = [node for node in nodes_of(ray) if (node["NodeID"], str(folder)) not in _seen]
    if not nodes:
        return
    text = secrets.token_hex(16)
    ask = ray.remote(num_cpus=0, max_retries=1)(see_folder)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(folder / "nodes") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
        asked = [
            ask.options(scheduling_strategy=on_node(node["NodeID"])).remote(str(folder), str(file.path), text)
            for node in nodes
        ]
        for node, reference in zip(nodes, asked, strict=True):
            try:
                lacks = ray.get(reference)
            except ray.exceptions.RayError:
                continue  # the node has gone
            _seen.add((node["NodeID"], str(folder)))
            if lacks == "locks":
                warn_once(
                    _(
                        "{folder}: the file system has no locks, so a job that is tried again may run twice at a time. "
                        "Its files are written whole all the same"
                    ).format(folder=folder)
                )
            elif lacks:
                raise UserError(LACKS[lacks].format(folder=folder, host=node["NodeManagerHostname"]))


@functools.cache
def looked_at(url: str) -> object_store.ObjectStore:
    """The store of ray.store, which is looked at once for a command. Raises UserError for one that cannot be used."""
    store = object_store.opened(url)
    store.look()
    return store


def check_store(ray: Any, store: object_store.ObjectStore) -> None:
    """Asks each node, once for a command, whether it reads what the command has written into the store. Raises
    UserError where it does not."""
    nodes = [node for node in nodes_of(ray) if (node["NodeID"], store.url) not in _seen]
    if not nodes:
        return
    place, text = f"nodes/{secrets.token_hex(16)}", secrets.token_hex(16)
    ask = ray.remote(num_cpus=0, max_retries=1)(errands.see_store)
    store.write(place, text.encode())
    try:
        asked = [
            ask.options(scheduling_strategy=on_node(node["NodeID"])).remote(store.url, place, text) for node in nodes
        ]
        for node, reference in zip(nodes, asked, strict=True):
            try:
                fault = ray.get(reference)
            except ray.exceptions.RayError:
                continue  # the node has gone
            _seen.add((node["NodeID"], store.url))
            if fault:
                raise UserError(_("on {host}: {fault}").format(host=node["NodeManagerHostname"], fault=fault))
    finally:
        store.remove(place)


LACKS = {
    "missing": _(
        "{host} does not see {folder} as the command does. Jobs read and write it on all nodes: share it at the same "
        "path, choose a shared folder (paths.output=DIR), or an object store (ray.store=s3://BUCKET/PREFIX)"
    ),
    "own locks": _(
        "{folder}: {host} does not see the locks of other nodes, and could remove files that they write. Mount it with "
        "locks (NFS: without nolock and local_lock)"
    ),
    "rename": _("{folder}: on {host} a file cannot be renamed over another. Share it by another file system"),
}
