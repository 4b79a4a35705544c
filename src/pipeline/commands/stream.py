"""./run.sh stream: a worker that answers the messages of Redis Streams or Kafka; with --send, messages for it.

    ./run.sh stream --bundle blend.bundle
    ./run.sh stream --send new_reports.csv --rate 100 --wait
    ./run.sh stream --bundle blend.bundle --url kafka://127.0.0.1:9092 stream.name=reports

Any number of workers may run, on any number of machines. Settings: stream.* and alarms.*.
"""

from __future__ import annotations

import argparse
import asyncio
import math
from pathlib import Path
from typing import TYPE_CHECKING

from src.core.errors import UserError
from src.core.language import _

if TYPE_CHECKING:
    from src.evaluation.workspace import Workspace


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", type=Path, metavar="FILE", help=_("a bundle, for the answers (./run.sh bundle)"))
    parser.add_argument(
        "--url",
        dest="stream.url",
        metavar="URL",
        help=_("redis://HOST:PORT/0 (default: of this machine) or kafka://HOST:PORT"),
    )
    parser.add_argument(
        "--send", type=Path, metavar="FILE", help=_("send the reports of a file, or the stays of a set")
    )
    parser.add_argument("--rate", type=_rate, metavar="N", help=_("for --send: messages a second (default: no limit)"))
    parser.add_argument("--wait", action="store_true", help=_("for --send: wait for all answers"))
    parser.add_argument(
        "--growing", action="store_true", help=_("for --send of stays: each as it was at each of alarms.hours")
    )


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    from src.serving.packages import require_packages

    settings = workspace.settings
    if (parsed.bundle is None) == (parsed.send is None):
        raise UserError(_("stream takes --bundle FILE, to answer messages, or --send FILE, to send some"))
    if parsed.bundle is not None and (parsed.rate is not None or parsed.wait or parsed.growing):
        raise UserError(_("--rate, --wait and --growing are for --send"))
    require_packages("./run.sh stream", "faststream", "redis", "confluent_kafka")
    if parsed.send is not None:
        from src.serving import sender

        messages = sender.file_messages(parsed.send, settings, parsed.growing)
        sender.show(asyncio.run(sender.send(settings.stream, messages, parsed.rate, parsed.wait)), settings.stream.name)
        return
    from src.serving.predictor import Predictor
    from src.serving.stream import work

    predictor = Predictor.load(parsed.bundle, settings.serve.engine, settings.serve.threads)
    asyncio.run(work(predictor, settings.stream, settings.alarms))


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise argparse.ArgumentTypeError(f"want a number of messages a second, not {text}")
    return rate
