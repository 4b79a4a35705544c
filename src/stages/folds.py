"""./run.sh folds: decide which report is validated by which model; written once to output/folds.csv."""

from __future__ import annotations

from src import artifacts, folds
from src.artifacts import Output
from src.config import Config
from src.console import say, warn
from src.prepared import Prepared


def run(config: Config) -> None:
    output = Output(config.paths.output)
    prepared = Prepared.load(output)
    corpus = prepared.train
    settings = config.folds.model_dump()
    what = f"{config.folds.k} folds" if config.folds.scheme == "kfold" else "holdout 8:1:1"
    if output.folds.exists() and output.folds_manifest.exists():
        made = artifacts.read_json(output.folds_manifest)
        if made["settings"] == settings and folds.load(output.folds, corpus, config.folds) is not None:
            say(f"folds: up to date ({what})")
            return
        say("folds: the reports or the settings have changed; splitting anew")
    output.folds_manifest.unlink(missing_ok=True)  # a table without its manifest is not taken for made
    made = folds.make_folds(corpus, config.folds)
    names = [file["name"] for file in prepared.manifest["files"] if file["role"] == "train"]
    folds.save(output.folds, made, corpus, names)
    worst, label = folds.largest_imbalance(corpus.labels, made)
    artifacts.write_json(output.folds_manifest, {"settings": settings, "largest_imbalance": round(worst, 6)})
    name = prepared.task.label_names[label]
    say(f"folds: {what}, {len(corpus):,} reports; label rates differ by at most {worst:.2%} between folds ({name})")
    rare = [prepared.task.label_names[i] for i, n in enumerate(corpus.labels.sum(axis=0)) if n < config.folds.k]
    if rare:
        warn(f"fewer positives than folds, so some folds have none: {', '.join(rare)}")
