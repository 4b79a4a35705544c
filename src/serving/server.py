"""The process of the service: uvicorn on a socket of our own, signals, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Iterator

import uvicorn

from src.core.errors import UserError
from src.core.settings import Serve
from src.core.terminal import info
from src.serving.app import Service, create_app
from src.serving.door import is_own
from src.serving.json_logs import log, start_logs
from src.serving.request_head import limited

BACKLOG = 2048
SWITCH = 0.0005
"""Seconds after which the event loop lets the prediction thread go on. Python's 5 ms would be added to a batch of some
milliseconds each time its models return to Python, and cost a third of the throughput under load."""
KEEP_ALIVE = 75
"""Seconds that a connection without requests is kept."""


class _Server(uvicorn.Server):
    """uvicorn that ends with status 0 after SIGTERM and SIGINT, lets listeners to events go, and reloads on SIGHUP."""

    def __init__(self, config: uvicorn.Config, service: Service):
        super().__init__(config)
        self._service = service
        service.connections = lambda: len(self.server_state.connections)
        service.settled = _freeze
        self._reloads: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
        host, port = sockets[0].getsockname()[:2]
        log("ready", host=host, port=port, pid=os.getpid(), bundle=self._service.described())

        _freeze()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log("shutdown", connections=len(self.server_state.connections))
        self._service.leave()
        await super().shutdown(sockets)

    def _reload(self) -> None:
        task = asyncio.create_task(self._reloaded())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reloaded(self) -> None:
        with contextlib.suppress(Exception):  # logged; the bundle before goes on
            await self._service.reload()


def _freeze() -> None:
    """Takes what lives as long as the bundle out of the garbage collector's sight: to look through the objects of all
    libraries stops the service for a tenth of a second."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def serve(service: Service) -> None:
    """Serves until SIGTERM or SIGINT. Raises UserError for an address that cannot be listened on."""
    settings = service.settings
    sys.setswitchinterval(SWITCH)
    listening = _listen(settings)
    host, port = listening.getsockname()[:2]
    info(f"serve: {service.file} on http://{f'[{host}]' if ':' in host else host}:{port}/ (Ctrl-C ends)")
    start_logs()
    config = uvicorn.Config(
        create_app(service),
        http=limited(settings.timeout),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=settings.grace,
    )
    if not is_own(settings.host) and service.key is None:
        log("open", level=30, text=f"{settings.host} can be reached from other machines, and no key is asked for")
    _Server(config, service).run([listening])
    log("end")


def _listen(settings: Serve) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    port = "Another port: ./run.sh serve --port N"
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OSError as error:
        remedy = "Name an address of this machine: serve.host=127.0.0.1" if isinstance(error, socket.gaierror) else port
        raise UserError(
            f"serve.host, serve.port: cannot listen on {settings.host} port {settings.port}: {error.strerror}. {remedy}"
        ) from None
