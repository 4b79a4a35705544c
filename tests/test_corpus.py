from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from src.core import storage
from src.data import corpus
from src.data.corpus import MASK, N_SPECIAL, PAD, UNK, Corpus, Stacked, Vocabulary, encode, pad, token_counts, unpad
from src.data.report_reader import Reports


def reports(rows: list[list[int]]) -> Reports:
    tokens = np.array(sum(rows, []), dtype=np.uint16)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    ids = np.array([str(i) for i in range(len(rows))], dtype="S")
    return Reports(Path("x.csv"), ids, tokens, offsets, None, None, hashlib.sha256(b"").hexdigest())


def test_no_word_is_given_a_reserved_index():
    assert len({PAD, UNK, MASK}) == N_SPECIAL == 3 and max(PAD, UNK, MASK) < N_SPECIAL
    assert Vocabulary(np.arange(858)).encode(np.arange(858)).min() == N_SPECIAL


def test_token_zero_is_a_word():
    vocabulary = Vocabulary(np.array([0, 5, 857]))
    assert len(vocabulary) == N_SPECIAL + 3
    np.testing.assert_array_equal(vocabulary.encode(np.array([0, 5, 857])), [N_SPECIAL, N_SPECIAL + 1, N_SPECIAL + 2])


def test_unseen_words_become_unk_and_are_counted():
    vocabulary = Vocabulary(np.array([1, 2]))
    corpus, losses = encode([reports([[1, 9, 2], [9, 7]])], vocabulary, None, 4, "head")
    assert (corpus.tokens == UNK).sum() == losses.unknown_tokens == 3
    assert losses.unknown_words == (7, 9)


def test_vocabulary_reads_back(tmp_path):
    vocabulary = Vocabulary(np.array([3, 1, 3, 65535]))
    vocabulary.save(tmp_path / "v.json")
    again = Vocabulary.load(tmp_path / "v.json")
    np.testing.assert_array_equal(again.words, [1, 3, 65535])
    assert again.fingerprint == vocabulary.fingerprint != Vocabulary(np.array([1, 3])).fingerprint


@pytest.mark.parametrize(("keep", "expected"), [("head", [1, 2, 3]), ("tail", [3, 4, 5])])
def test_long_reports_keep_one_end(keep, expected):
    words = np.array([1, 2, 3, 4, 5, 9], dtype=np.uint16)
    padded, lengths = pad(words, np.array([0, 5, 6]), 3, keep)
    np.testing.assert_array_equal(padded, [expected, [9, PAD, PAD]])
    np.testing.assert_array_equal(lengths, [3, 1])


def test_a_corpus_in_the_place_of_another_kind_is_what_is_loaded(tmp_path):
    encode([reports([[1], [1]])], Vocabulary(np.array([1])), np.ones((2, 1)), 3, "head")[0].save(tmp_path)
    values = {"values": np.zeros((1, 2, 3)), "statics": np.zeros((1, 1, 2))}
    Corpus(values, np.array([2]), np.array([b"a"]), None, np.zeros(1, np.uint8)).save(tmp_path)
    found = Corpus.load(tmp_path)
    assert found.inputs.keys() == values.keys() and found.labels is None and len(found) == 1


def test_truncated_reports_are_counted():
    _, losses = encode([reports([[1] * 5, [1] * 4, [1] * 3])], Vocabulary(np.array([1])), None, 3, "head")
    assert losses.truncated == 2


def test_unpad_inverts_pad():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, size=50)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    words = rng.integers(N_SPECIAL, 100, size=offsets[-1]).astype(np.uint16)
    again, again_offsets = unpad(*pad(words, offsets, 8))
    np.testing.assert_array_equal(again, words)
    np.testing.assert_array_equal(again_offsets, offsets)


def test_a_corpus_reads_back_with_its_sources(tmp_path):
    vocabulary = Vocabulary(np.arange(10))
    labels = np.eye(3, 2, dtype=np.uint8)
    corpus, _ = encode([reports([[1, 2]]), reports([[3], [4, 5]])], vocabulary, labels, 4, "head")
    np.testing.assert_array_equal(corpus.sources, [0, 1, 1])
    corpus.save(tmp_path)
    again = Corpus.load(tmp_path)
    for name in ("tokens", "lengths", "ids", "labels", "sources"):
        np.testing.assert_array_equal(getattr(again, name), getattr(corpus, name))


def test_text_hash_follows_the_text():
    vocabulary = Vocabulary(np.arange(10))
    first, _ = encode([reports([[1, 2], [3], [1, 2]])], vocabulary, None, 4, "head")
    hashes = first.hashes()
    assert hashes[0] == hashes[2] != hashes[1]


@pytest.mark.parametrize("keep", ["head", "tail"])
@pytest.mark.parametrize("block", [1, 7, 64])
def test_blocks_give_what_one_piece_gives(tmp_path, monkeypatch, keep, block):
    """Blocks that end inside files, at their ends and beyond give the same arrays and files, byte for byte."""
    rng = np.random.default_rng(0)
    files = [reports([rng.integers(0, 30, size).tolist() for size in rng.integers(1, 12, n)]) for n in (20, 1, 14)]
    vocabulary, labels = Vocabulary(np.arange(25)), rng.integers(0, 2, (35, 3)).astype(np.uint8)
    whole, losses = encode(files, vocabulary, labels, 8, keep)
    expected = [pad(vocabulary.encode(file.tokens), file.offsets, 8, keep)[0] for file in files]
    np.testing.assert_array_equal(whole.tokens, np.concatenate(expected))
    whole.save(tmp_path / "a" / "made")
    monkeypatch.setattr(corpus, "BLOCK", block)
    pieces, again = encode(files, vocabulary, labels, 8, keep, tmp_path / "b" / "made")
    assert again == losses and losses.unknown_words == (25, 26, 27, 28, 29) and losses.truncated > 0
    assert pieces.fingerprint == whole.fingerprint
    written = {path.name: path.read_bytes() for path in (tmp_path / "a" / "made").iterdir()}
    assert written == {path.name: path.read_bytes() for path in (tmp_path / "b" / "made").iterdir()}
    assert set(written) == {f"{name}.npy" for name in ("tokens", "lengths", "ids", "labels", "sources")}
    hashes = [storage.array_hash(row[:n]).encode() for row, n in zip(whole.tokens, whole.lengths, strict=True)]
    assert pieces.hashes().tolist() == whole.hashes().tolist() == hashes


def test_tokens_are_counted_to_the_last():
    files = [reports([[0, 65535], [7, 7]]), reports([[7]])]
    counts = token_counts(files)
    assert counts[[0, 7, 65535]].tolist() == [1, 3, 1] and counts.sum() == 5 and len(counts) == 65536
    many = np.arange(1_500_000) % 1000  # more than are counted at a time
    one = Reports(Path("x.csv"), np.array([b"0"]), many.astype(np.uint16), np.array([0, len(many)]), None, None)
    np.testing.assert_array_equal(token_counts([one])[:1001], [1500] * 1000 + [0])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measured by Linux's /proc")
def test_memory_stays_with_the_reports(tmp_path):
    """200,000 reports are 17 MB of tokens, and 42 MB padded; encoding must not hold the padded arrays in memory."""
    taken = json.loads(subprocess.check_output([sys.executable, "-c", MEASURED, str(tmp_path)], cwd=ROOT))
    assert taken["encode"] < 30 and taken["folds"] < 60


ROOT = Path(__file__).resolve().parents[1]
MEASURED = """
import json, sys
from pathlib import Path
import numpy as np
from src.core.settings import Folds
from src.data import splits
from src.data.corpus import Corpus, Vocabulary, encode, token_counts
from src.bench.data import synthetic

def held(name):  # of anonymous memory, in MB: pages of mapped files may be dropped at any time
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1]) / 1e3

def peak(call):
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
    before, files = held("VmRSS"), held("RssFile")
    result = call()
    return result, held("VmHWM") - before - max(0, held("RssFile") - files)

folder = Path(sys.argv[1])
reports = synthetic(200_000)
vocabulary = Vocabulary(np.flatnonzero(token_counts([reports])))
_, encoded = peak(lambda: encode([reports], vocabulary, reports.labels, 104, "head", folder))
corpus = Corpus.load(folder)
settings = Folds(max_rows=1000)
splits.make_folds(corpus, settings)  # imports
def save_and_load():
    made = splits.make_folds(corpus, settings)
    splits.save(folder / "folds.csv", made, corpus, ["x"])
    assert (splits.load(folder / "folds.csv", corpus, settings).table == made.table).all()
_, dealt = peak(save_and_load)
print(json.dumps({"encode": encoded, "folds": dealt}))
"""


def test_stacked_arrays_keep_long_ids():
    stacked = Stacked([np.array([b"1", b"2"]), np.array([b"1234567"])])
    assert stacked[np.array([2, 0])].tolist() == [b"1234567", b"1"] and len(stacked) == 3
