"""Reasons that are told of a run, where the truth is known: sample data says which words decide."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from src.__main__ import main
from src.core.executors import make_executor
from src.core.settings import Executor
from src.core.settings_loader import load_config
from src.core.storage import Output
from src.data.synthetic import PAIRS, language, make_sample
from src.data.tasks import ROUND1
from src.evaluation import metrics
from src.evaluation.workspace import Workspace
from src.reporting.explanations import carriers, explain, member_shares
from tests.conftest import run_command, words

TRAINED = [
    "--preset", "sample", "executor.threads=1", "folds.scheme=holdout", "baselines=[]", "train.noise.replacement=0",
    "train.epochs=4", "train.learning_rate=0.008", "train.batch_size=32", "explain.per_label=10",
]  # fmt: skip


@pytest.fixture(scope="module")
def learned(made_once):
    """Output and command-line words of a GRU that has learned reports without noise well."""

    def given(folder: Path) -> list[str]:
        return [*TRAINED, f"paths.input={folder}", f"paths.output={folder / 'output'}"]

    def learn(folder: Path) -> None:
        make_sample(folder, rows=3500, test_rows=40, task=ROUND1, seed=3, noise=False)
        run_command(["train", "--model", "gru", *given(folder)])
        run_command(["explain", "gru", *given(folder)])

    folder = made_once("explained", learn)
    output = Output(folder / "output")
    assert json.loads((output.run("gru") / "score.json").read_text())["overall"]["score"]["value"] > 0.93
    return output, given(folder)


def own_words(region: int) -> set[int]:
    """The words that tell of a region by themselves or, sides and organs, with one another."""
    classes = language().classes
    names = [f"region{region}", f"part{region}"]
    for i, pair in enumerate(PAIRS):
        if region in pair:
            names += [f"side{pair.index(region)}", f"organ{i}"]
    return {int(word) for name in names for word in classes[name]}


def finding_words() -> set[int]:
    """The words that say that something is there, and how severe it is."""
    classes = language().classes
    return {int(word) for name in ("f", "s", "no", "normal", "but", "out") for word in classes[name]}


@pytest.mark.slow
def test_the_words_that_decide_are_those_that_are_found(learned):
    output, _ = learned
    told = json.loads((output.run("gru") / "explained.json").read_text())
    regions = [(k, one) for k, one in enumerate(told["labels"].values()) if one["reports"] >= 10]
    assert len(regions) >= 10
    right = [gram[0] in own_words(k) | finding_words() for k, one in regions for (gram, _, _) in one["words"][:4]]
    assert np.mean(right) > 0.9
    own = [any(gram[0] in own_words(k) for gram, _, _ in one["words"][:3]) for k, one in regions]
    assert np.mean(own) > 0.9
    # Other words of the language are as many; by chance they would be among the first as often.
    assert len(own_words(0) | finding_words()) < 0.2 * 858


@pytest.mark.slow
def test_of_a_report_the_deciding_tokens_lead_and_occlusion_agrees(learned):
    output, given = learned
    config = load_config("sample", [word for word in given if "=" in word], ["gru"])
    dataset, run = Workspace(config).dataset, Workspace(config).run("gru")
    train, said = dataset.train, metrics.sigmoid(run.oof().astype(np.float64))
    sure = np.argwhere((np.asarray(train.labels) == 1) & (said > 0.9))
    cells = [(int(row), int(label)) for row, label in sure[:: max(len(sure) // 40, 1)][:40]]
    executor = make_executor(Executor(threads=1), "cpu", 5)
    found = explain(executor, run, dataset.train_folder, cells, judged=True, steps=16, occlude=True)
    assert [(one.row, one.label) for one in found] == cells
    leads, ranks, chance = [], [], []
    for one in found:
        assert one.logit == pytest.approx(float(run.oof()[one.row, one.label]), abs=0.05)
        assert one.contributions.sum() == pytest.approx(
            one.logit - one.start, abs=0.1 * abs(one.logit - one.start) + 0.3
        )
        tokens = dataset.vocabulary.words[train.tokens[one.row, : train.lengths[one.row]].astype(int) - 3]
        own = np.isin(tokens, list(own_words(one.label)))
        leads.append(own[np.argsort(-one.contributions)[:2]].any())
        chance.append(own.mean())
        ranks.append(spearmanr(one.contributions, one.falls).statistic)
    assert np.mean(leads) > 0.9
    assert np.mean(chance) < 0.3
    assert np.mean(ranks) > 0.4


def test_attention_is_told_apart_from_contributions(copy, tiny_input):
    given = words(tiny_input, copy, "model.pooling=attention")
    assert main(["train", "--model", "lstm", *given]) == 0
    assert main(["explain", "lstm", "--id", "5", "--label", "region_4", "--file", "sample_testA.csv", *given]) == 0
    page = (copy / "explain_lstm_sample_testA_5.html").read_text()
    assert page.count('class="heat"') == 2 and "where the pooling looks (attention)" in page
    looks = page.split("where the pooling looks")[1]
    assert "224 138 44" not in looks and looks.count("61 126 219") > 3


def test_a_blend_is_explained_by_its_members_shares(done, tiny_input):
    config = load_config("sample", [word for word in words(tiny_input, done) if "=" in word])
    dataset, blend = Workspace(config).dataset, Workspace(config).run("blend")
    shares = member_shares(blend)
    assert set(shares) == {"lstm", "transformer"}
    members = [Workspace(config).run(name) for name in shares]
    # Its own out-of-fold logits are cross-fitted; these are by the weights that are used for tests.
    weighted = sum(shares[member.name] * member.oof() for member in members)
    test = dataset.test_files[0]
    parts = [shares[member.name] * member.test_logits(test) for member in members]
    np.testing.assert_allclose(sum(parts), blend.test_logits(test), rtol=1e-4, atol=1e-4)
    executor = make_executor(config.executor, "cpu", 4)
    for judged, folder, logits in (
        (True, dataset.train_folder, weighted),
        (False, dataset.test_folder(test), blend.test_logits(test)),
    ):
        found = explain(executor, blend, folder, [(3, 1), (0, 5), (3, 0)], judged, steps=4, occlude=False)
        assert [one.falls for one in found] == [None] * 3
        for one in found:
            assert one.logit == pytest.approx(float(logits[one.row, one.label]), abs=0.02)


def test_carriers_are_ranked_by_what_they_add_in_all():
    tokens = [np.array([1, 2, 3]), np.array([2, 3, 2]), np.array([9, 2])]
    values = [np.array([0.5, 1.0, -0.2]), np.array([2.0, 0.1, 1.0]), np.array([7.0, 0.0])]
    assert carriers(tokens, values, 1, least=2) == [((2,), 1.0, 3)]  # 3 takes away, 1 and 9 stand in one report
    pairs = carriers(tokens, values, 2, least=1)
    assert [gram for gram, _, _ in pairs] == [(9, 2), (2, 3), (1, 2), (3, 2)]
    assert pairs[1] == ((2, 3), pytest.approx((0.8 + 2.1) / 2), 2)


def test_one_report_in_the_terminal_and_as_a_page(done, tiny_input, capsys):
    asked = ["explain", "lstm", "--id", "7", "--label", "region_3", "--label", "5", "--file", "sample_testA.csv"]
    assert main([*asked, *words(tiny_input, done)]) == 0
    said = capsys.readouterr().out
    assert "region_3: 0." in said and "region_5: 0." in said and "\x1b" not in said
    assert "+++" in said or "---" in said
    path = done / "explain_lstm_sample_testA_7.html"
    page = path.read_text()
    assert page.count('class="heat"') == 2 and "Report 7 of sample_testA.csv" in page
    assert main([*asked, *words(tiny_input, done)]) == 0
    assert path.read_text() == page
    path.unlink()


def test_an_id_that_several_files_have_is_that_of_train(copy, tiny_input, capsys):
    assert main(["explain", "lstm", "--id", "7", *words(tiny_input, copy)]) == 0
    said = capsys.readouterr().out
    assert "report 7 of sample_train.csv; --file sample_testA.csv or --file sample_testB.csv has one too" in said
    assert ", in truth " in (copy / "explain_lstm_sample_train_7.html").read_text()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["--id", "none"], "no report has the id none"),
        (["--id", "7", "--file", "nowhere.csv"], "nowhere.csv"),
        (["--id", "7", "--file", "sample_testA.csv", "--label", "region_99"], "region_99"),
        (["--label", "3"], "--id ID"),
        (["lstmm"], "lstm"),
    ],
)
def test_what_cannot_be_explained_is_told(done, tiny_input, capsys, asked, told):
    assert main(["explain", *asked, *words(tiny_input, done, "explain.per_label=2")]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.slow
def test_the_pipeline_explains_once_and_the_report_shows_it(learned, capsys):
    output, given = learned
    capsys.readouterr()
    assert main(["explain", "gru", *given]) == 0
    assert "up to date" in capsys.readouterr().out
    assert main(["report", *given]) == 0
    page = output.report.read_text()
    assert '<h2><span lang="en">Explanations</span>' in page and page.count('class="heat"') == 12
