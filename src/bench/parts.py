"""Parts of the benchmark: contenders on the same work, the product first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from src.bench.data import synthetic
from src.bench.measure import Contender
from src.core.settings_loader import load_config
from src.data.report_reader import write_reports

PRODUCT, PLAIN = "src.bench.product:", "src.bench.plain:"
TRAIN_ROWS, VALID_ROWS = 2048, 512
"""Reports of an epoch and of its validation, four to one like in five folds."""
PREDICT_ROWS = 4096


@dataclass(frozen=True)
class Setting:
    """Conditions of a benchmark run."""

    cores: int
    rows: int
    """Number of reports in the file for the reading part."""
    folder: Path
    """Folder for temporary files, deleted at the end."""
    onnx: bool
    """True to include onnxruntime."""


@dataclass(frozen=True)
class Part:
    """Comparison of contenders on the same work."""

    title: str
    unit: str
    """Unit of work: report, run, flop or byte."""
    contenders: list[Contender]


def _side_by_side(setting: Setting) -> dict:
    """Returns the product's default arrangement on this machine's cores."""
    return {"processes": setting.cores, "threads": 1, "product": True}


def _in_turn(setting: Setting) -> dict:
    return {"processes": 1, "threads": setting.cores}


def read(setting: Setting) -> Part:
    path = setting.folder / "reports.csv"
    write_reports(path, synthetic(setting.rows))
    given = {"path": str(path)}
    megabytes = path.stat().st_size / 1e6
    return Part(
        f"Reading {setting.rows:,} reports, {megabytes:,.0f} MB",
        "report",
        [
            Contender("ours", "read_reports, checked", PRODUCT + "read", given),
            Contender("columns", "pandas, text alone", PLAIN + "read_columns", given),
            Contender("tokens", "pandas, then integers", PLAIN + "read_tokens", given, rarely=True),
        ],
    )


def batch(setting: Setting) -> Part:
    given = {"rows": 8000, "batch_size": 64}
    return Part(
        "Batches of an epoch of 8,000 reports, with noise",
        "report",
        [
            Contender("ours", "pools, trimmed", PRODUCT + "batches", given),
            Contender("dataloader", "DataLoader, padded to 104", PLAIN + "batches", given),
        ],
    )


def _train(setting: Setting, model: str) -> Part:
    # The textbook loop trains on single reports.
    run = load_config("quick", ["train.join=0"], models=[model]).runs[model].model_dump(mode="json")
    given = {"run": run, "rows": TRAIN_ROWS, "valid_rows": VALID_ROWS}
    auto, whole, half = ({**given, "precision": name} for name in ("auto", "fp32", "bf16"))
    return Part(
        f"Training {model}: epochs of {TRAIN_ROWS:,} reports, validated on {VALID_ROWS}",
        "report",
        [
            Contender("ours", "folds side by side", PRODUCT + "epoch", auto, **_side_by_side(setting)),
            Contender(
                "in_turn", "folds in turn, all threads", PRODUCT + "epoch", auto, product=True, **_in_turn(setting)
            ),
            Contender("fp32", "side by side, fp32", PRODUCT + "epoch", whole, **_side_by_side(setting)),
            Contender("textbook", "textbook loop", PLAIN + "epoch", whole, **_in_turn(setting)),
            Contender("textbook_bf16", "textbook loop, bf16", PLAIN + "epoch", half, rarely=True, **_in_turn(setting)),
        ],
    )


def _predict(setting: Setting, model: str, overrides: tuple[str, ...] = ()) -> Part:
    run = load_config("quick", overrides, models=[model]).runs[model].model_dump(mode="json")
    given, few = {"run": run, "rows": PREDICT_ROWS}, 256
    contenders = [
        Contender(
            "ours", "sorted by length", PRODUCT + "predict", given | {"check_rows": [few]}, **_side_by_side(setting)
        ),
        Contender(
            "padded", "padded, batches of 64", PLAIN + "predict", given | {"batch_size": 64}, **_in_turn(setting)
        ),
        Contender(
            "one",
            "padded, one at a time",
            PLAIN + "predict",
            given | {"rows": few, "batch_size": 1},
            **_in_turn(setting),
        ),
    ]
    if setting.onnx:
        contenders.append(
            Contender("onnxruntime", "onnxruntime", PLAIN + "predict_onnx", given, processes=setting.cores, threads=1)
        )
    return Part(f"Predicting {PREDICT_ROWS:,} reports with {model}, fp32", "report", contenders)


def tfidf(setting: Setting) -> Part:
    given = {"rows": 5000}
    return Part(
        "TF-IDF of 1- to 3-grams, 5,000 reports",
        "report",
        [
            Contender("ours", "near_duplicates.tfidf", PRODUCT + "tfidf", given),
            Contender("sklearn", "scikit-learn, from text", PLAIN + "tfidf", given),
        ],
    )


def blend(setting: Setting) -> Part:
    given = {"rows": 10_000, "members": 2}
    return Part(
        "Choosing and fitting a blend of two runs, 10,000 reports, five folds",
        "report",
        [Contender("ours", "blend.method auto", PRODUCT + "blend", given, rarely=True)],
    )


def start(setting: Setting) -> Part:
    return Part(
        "Start-up",
        "run",
        [
            Contender("ours", "python -m src --help", PRODUCT + "start", {"arguments": ["--help"]}),
            Contender("python", "a bare interpreter", PLAIN + "start"),
        ],
    )


def limits(setting: Setting) -> Part:
    """Returns the part that measures the machine's speed limit."""
    size = {"size": 1024}
    return Part(
        "Matrix products, all cores",
        "flop",
        [
            Contender(kind, kind, PRODUCT + "products", size | {"precision": kind}, **_side_by_side(setting))
            for kind in ("fp32", "bf16")
        ],
    )


def bandwidth(setting: Setting) -> Part:
    given = {"megabytes": 256}
    return Part(
        "Memory, all cores",
        "byte",
        [Contender("copy", "copying 256 MB", PRODUCT + "copies", given, **_side_by_side(setting))],
    )


PARTS: dict[str, Callable[[Setting], Part]] = {
    "limits": limits,
    "bandwidth": bandwidth,
    "start": start,
    "read": read,
    "batch": batch,
    "tfidf": tfidf,
    "blend": blend,
    **{
        f"train_{model}": lambda setting, model=model: _train(setting, model)
        for model in ("lstm", "gru", "rnn", "transformer")
    },
    "predict_lstm": lambda setting: _predict(setting, "lstm"),
    "predict_gru": lambda setting: _predict(setting, "gru"),
    # The exporter to ONNX supports no complex numbers, so this model has relative positions instead of rotary ones.
    "predict_transformer": lambda setting: _predict(setting, "transformer", ("model.positions=relative",)),
}
