"""The Python interface makes and reads the files of the commands, and says what a machine lacks."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from src import Pipeline
from src.__main__ import main
from src.core import packages, storage
from src.core.errors import UserError
from src.data.submission_files import read_submission
from tests.conftest import TINY
from tests.test_architecture import HEAVY, ROOT


@pytest.fixture
def opened(copy) -> Pipeline:
    return Pipeline(copy)


def test_the_package_is_light_until_the_pipeline_is_asked_for():
    code = f"import sys, src; before = set(sys.modules); print(sorted({HEAVY | {'numpy', 'pydantic'}!r} & before))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_asking_for_the_pipeline_imports_nothing_slow():
    code = f"import sys; from src import Pipeline; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_fit_makes_what_the_command_makes(tiny_input, tmp_path, capsys):
    """From files in a folder that cannot be written; `prepare` stands for the pipeline, which takes half a minute."""
    made = Pipeline(tmp_path / "output")
    train, *tests = (next(tiny_input.glob(glob)) for glob in ("*train.csv", "*testA.csv", "*testB.csv"))
    words_of = made._input_words(train, tests)
    assert main(["prepare", f"paths.output={tmp_path / 'output'}", *words_of]) == 0
    assert main(["prepare", f"paths.output={tmp_path / 'command'}", f"paths.input={tiny_input}"]) == 0
    one, other = (json.loads((tmp_path / name / "data/manifest.json").read_text()) for name in ("output", "command"))
    assert one["files"] == other["files"] and one["input"] == other["input"]


def test_a_pipeline_is_opened_with_the_settings_of_the_command(opened, done):
    assert opened.workspace.settings.folds.k == 2 and opened.workspace.settings.preset == "sample"
    assert opened.workspace.output.root == opened.output != done
    assert opened.report == opened.output / "report.html"


def test_settings_of_before_hold_where_none_are_given(opened, tiny_input, monkeypatch):
    commands = []
    monkeypatch.setattr(opened, "_run", lambda *words: commands.append(list(words)))
    opened.fit()
    opened.fit(tiny_input)
    assert {"--preset", "folds.k=2", f"paths.output={opened.output}"} <= set(commands[0]) & set(commands[1])
    opened.fit(preset="quick", settings={"train.seeds": [1, 2], "device": "cpu"})
    places = [word for word in commands[1] if word.startswith(("paths.", "executor."))]
    assert commands[2] == ["pipeline", "--preset", "quick", *places, "train.seeds=[1, 2]", "device=cpu"]


def test_a_time_chooses_the_settings(opened, monkeypatch):
    made = storage.read_json(opened.output / "pipeline.json")

    def timed(*words: str) -> None:
        assert words[:3] == ("pipeline", "--time", "30m") and "folds.k=2" not in words
        command = f"./run.sh pipeline --time 1800s folds.k=2 paths.input=in paths.output={opened.output}"
        storage.write_json(opened.output / "pipeline.json", {**made, "command": command})

    monkeypatch.setattr(opened, "_run", timed)
    opened.fit(time="30m")
    plan = ["--preset", str(opened.output / "time/plan.yaml"), "paths.input=in", f"paths.output={opened.output}"]
    assert opened._words == Pipeline(opened.output)._words == plan


def test_scores_are_those_of_the_runs(opened):
    table = opened.scores
    assert set(table.index) == {"lstm", "transformer", "blend"}
    score = opened.workspace.run("blend").score["overall"]["score"]["value"]
    assert table.loc["blend", "out of fold"] == score
    expected = table[
        [f"{name}sample_testA.csv{end}" for name, end in (("", " low"), ("expected on ", ""), ("", " high"))]
    ]
    assert (expected.diff(axis=1).iloc[:, 1:] > 0).all(axis=None)


def test_texts_are_predicted_like_a_file(opened, tiny_input, capsys):
    file = next(tiny_input.glob("*testA.csv"))
    lines = [line.split("|,|") for line in file.read_text().splitlines()]
    by_file = opened.predict(file, run="lstm")
    assert (
        list(by_file.index) == [line[0] for line in lines]
        and list(by_file.columns) == opened.workspace.task.label_names
    )
    ids, values = read_submission(opened.output / f"prediction_lstm_{file.name}")
    assert (by_file.to_numpy() == values).all() and len(ids) == len(lines)
    texts = [lines[0][1].strip(" |,"), [int(token) for token in lines[1][1].split()]]
    by_text = opened.predict(texts, run="lstm")
    pd.testing.assert_frame_equal(by_text, by_file.iloc[:2].set_axis(["0", "1"], axis=0).rename_axis("id"), rtol=1e-5)


def test_a_text_alone_is_told_from_a_file(opened):
    with pytest.raises(UserError, match=r"no file 12 34.*predict\(\[\"12 345 6\"\]\)"):
        opened.predict("12 34")


def test_explain_returns_what_a_notebook_shows(opened, capsys):
    section = opened.explain(3, run="lstm", labels=["region_1"])
    shown = section._repr_html_()
    assert 'class="heat"' in shown and "region_1" in shown
    assert capsys.readouterr().out == ""
    assert list(opened.output.glob("explain_lstm_*_3.html"))


def test_submission_writes_the_files_of_the_command(opened, done, capsys):
    files = opened.submission()
    assert set(files) == {"sample_testA.csv", "sample_testB.csv"}
    for path in files.values():
        assert path.read_bytes() == (done / path.name).read_bytes()


def test_a_folder_is_the_input_folder(opened, tiny_input):
    assert opened._input_words(tiny_input, ()) == [f"paths.input={tiny_input}"]


def test_two_files_of_one_name_are_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.csv").write_text("0|,|1 2|,|0\n")
    with pytest.raises(UserError, match="two files have the name train.csv"):
        Pipeline(tmp_path / "output").fit([tmp_path / "a/train.csv", tmp_path / "b/train.csv"])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="test: there is no file .*none.csv"):
        Pipeline(tmp_path).fit(__file__, tmp_path / "none.csv")


def test_files_of_before_stay_where_new_ones_cannot_be_taken(tmp_path):
    made, file = Pipeline(tmp_path / "output"), tmp_path / "train.csv"
    file.write_text("0|,|1 2|,|0\n")
    made._input_words(file, ())
    with pytest.raises(UserError, match="there is no file"):
        made._input_words(file, tmp_path / "none.csv")
    assert [path.resolve() for path in (tmp_path / "output/input").glob("*/*")] == [file]
    own = tmp_path / "output/input/train/own.csv"
    own.write_text("0|,|1 2|,|0\n")
    for given in (file, own):
        with pytest.raises(UserError, match="own.csv is a file of your own"):
            made._input_words(given, ())
    assert own.exists() and (own.parent / file.name).exists()


def test_copies_are_replaced_where_there_are_no_links(tmp_path, monkeypatch):
    def refuse(*_paths) -> None:
        raise OSError

    monkeypatch.setattr("os.symlink", refuse)
    made, files = Pipeline(tmp_path / "output"), [tmp_path / "one.csv", tmp_path / "other.csv"]
    for file in files:
        file.write_text(file.name)
        made._input_words(file, ())
    (copy,) = (tmp_path / "output/input").glob("*/*")
    assert copy.read_text() == "other.csv" and not copy.is_symlink() and all(file.exists() for file in files)
    made._input_words(copy, ())
    assert copy.read_text() == "other.csv"


def test_an_error_of_the_user_is_shown_without_its_traceback():
    assert UserError("no such file")._render_traceback_() == ["error: no such file"]


def test_missing_packages_are_named_with_the_command(monkeypatch):
    monkeypatch.setattr(packages, "_installed", lambda name: "" if name in ("scipy", "psycopg") else "1.0")
    with pytest.raises(UserError, match=r"1 packages are not installed here.*pip install scipy==[\d.]+$"):
        packages.check()


def test_packages_are_those_that_the_pipeline_needs():
    found = {one.name: one for one in packages.packages()}
    assert {"torch", "iterative-stratification", "Jinja2", "psycopg"} <= set(found) and "pytest" not in found
    assert all(one.found for one in found.values())
    assert list(Pipeline.packages().columns) == ["wanted", "found"]


@pytest.mark.slow
def test_the_whole_interface_in_a_script(tiny_input, tmp_path):
    """In a process of its own, whose folder is none of the project's."""
    settings = {word.split("=")[0]: ast.literal_eval(word.split("=")[1]) for word in TINY if "=" in word}
    code = f"""
from src import Pipeline

if __name__ == "__main__":
    made = Pipeline("made").fit({str(tiny_input)!r}, preset="sample", settings={settings})
    assert len(made.scores) == 3 and made.predict(["1 2"]).shape == (1, 17)
    assert made.submission() and made.report.exists()
"""
    (tmp_path / "script.py").write_text(code)
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    run = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert Path(tmp_path / "made/pipeline.json").exists()
