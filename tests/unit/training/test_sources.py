import itertools
import json
import sys
from types import SimpleNamespace

import pytest
from training_fakes import byte_tokenizer

from hydrahead.core.errors import HydraHeadError
from hydrahead.training.batch import IGNORE
from hydrahead.training.data.builtin import builtin_texts
from hydrahead.training.data.hub import HubAddress
from hydrahead.training.data.packing import PackedBatches
from hydrahead.training.data.recall import RecallSource
from hydrahead.training.data.sources import build_source, local_paths

TOKENIZER = byte_tokenizer()


def texts(spec, limit=50, length=64):
    """Decoded documents of a source, special tokens as they are."""
    source = build_source(spec, TOKENIZER, length=length).parts[0].source
    records = itertools.islice(source.records(0), limit)
    return [TOKENIZER.decode(d.ids) for record in records for d in source.encode(record)]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_text_file_is_one_document(tmp_path):
    assert texts(write(tmp_path / "a.txt", "one\n\ntwo")) == ["<s>one\n\ntwo</s>"]


def test_a_long_text_comes_in_pieces_that_join_up(tmp_path):
    lines = "".join(f"line {i} \u00e9\n" for i in range(20_000))
    found = texts(write(tmp_path / "long.md", lines), limit=1000)
    assert len(found) > 10
    assert "".join(found) == f"<s>{lines}</s>"
    assert all(piece.endswith("\n") for piece in found[:-1])


def test_a_folder_is_read_recursively_by_name(tmp_path):
    write(tmp_path / "b.txt", "second")
    write(tmp_path / "a" / "x.jsonl", '{"text": "first"}\n')
    write(tmp_path / "picture.png", b"\x89PNG\0")
    assert texts(tmp_path) == ["<s>first</s>", "<s>second</s>"]


def test_records_can_be_skipped(tmp_path):
    lines = "\n".join(json.dumps({"text": f"t{i}"}) for i in range(5))
    source = build_source(write(tmp_path / "l.jsonl", lines), TOKENIZER, length=8).parts[0].source
    assert [r.text for r in source.records(3)] == ["t3", "t4"]


def test_parquet_rows_are_documents(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"text": ["x", "y", "z"], "other": [1, 2, 3]})
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    assert texts(tmp_path / "t.parquet") == ["<s>x</s>", "<s>y</s>", "<s>z</s>"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"fine so far\0\1", "is binary"),
        ("a.txt", b"caf\xe9 is latin-1", "not UTF-8"),
        ("a.txt", b"broken at the end \xe2\x82", "not UTF-8"),
        ("a.txt", b" \n\t ", "no text in it"),
        ("a.txt", b"", "no text in it"),
        ("a.jsonl", b"", "no text in it"),
        ("a.jsonl", b'{"text": "x"}\n{"text": ', "line 2: is not JSON"),
        ("a.jsonl", b'{"content": "x"}', "neither 'text'.* but content"),
        ("a.jsonl", b'["x"]', "is not an object"),
        ("a.parquet", b"PAR1 no", "is not a parquet file"),
        ("folder/a.bin", b"x", "no readable file"),
    ],
)
def test_data_that_is_none_is_named(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(HydraHeadError, match=message):
        texts(path.parent if "/" in name else path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no/such/file.txt", "no such file"),
        ("", "no data was named"),
        ("buildin", "did you mean 'builtin'"),
        ("builtin:recal=0.5", "did you mean 'recall'"),
        ("builtin:recall=1.5", "recall"),
        ("builtin:recall=x", "recall"),
        ("builtin*much", "'much' is not a weight"),
        ("hf:", "is not the address"),
        ("hf:a/b:c:d:e:f", "is not the address"),
        ("hf:a/b:colum=x", "did you mean 'column'"),
    ],
)
def test_a_source_that_cannot_be_is_named(spec, message):
    with pytest.raises(HydraHeadError, match=message):
        build_source(spec, TOKENIZER, length=64)


def test_a_missing_library_is_named():
    pytest.importorskip("transformers")
    try:
        import datasets  # noqa: F401
    except ImportError:
        with pytest.raises(HydraHeadError, match=r"hydrahead\[train\]"):
            build_source("hf:some/name", TOKENIZER, length=64)
    else:
        pytest.skip("datasets is installed")


class FakeStream:
    def __init__(self, rows):
        self.rows = rows

    def skip(self, count):
        return FakeStream(self.rows[count:])

    def __iter__(self):
        return iter(self.rows)


def test_a_dataset_is_streamed_by_name(monkeypatch):
    calls = []

    def load_dataset(name, config, *, split, streaming):
        calls.append((name, config, split, streaming))
        if name == "no/such":
            raise FileNotFoundError("no/such is not on the hub")
        chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
        return FakeStream([{"body": "one"}, {"body": "two"}, {"body": chat}])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    source = build_source("hf:some/name:en:test:body", TOKENIZER, length=64).parts[0].source
    assert calls[0] == ("some/name", "en", "test", True)
    records = list(source.records(1))
    assert TOKENIZER.decode(source.encode(records[0])[0].ids) == "<s>two</s>"
    with pytest.raises(HydraHeadError, match="row 2: is a chat, but the tokenizer has no chat"):
        source.encode(records[1])
    with pytest.raises(HydraHeadError, match=r"hf:no/such: cannot be streamed \(no/such is not"):
        build_source("hf:no/such", TOKENIZER, length=64)
    with pytest.raises(HydraHeadError, match="row 0: has neither 'text'"):
        build_source("hf:some/name", TOKENIZER, length=64)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b", ("a/b", None, "train", "text")),
        ("a/b:test", ("a/b", None, "test", "text")),
        ("a/b:test:body", ("a/b", None, "test", "body")),
        ("a/b:en:test:body", ("a/b", "en", "test", "body")),
        ("a/b:config=en", ("a/b", "en", "train", "text")),
        ("a/b:test:config=en", ("a/b", "en", "test", "text")),
    ],
)
def test_addresses_of_datasets(text, expected):
    address = HubAddress.parse(text)
    assert (address.name, address.config, address.split, address.column) == expected


def test_weights_are_shares_of_tokens(tmp_path):
    one = write(tmp_path / "one.txt", "a" * 400)
    two = write(tmp_path / "two.txt", "b" * 300)
    mixture = build_source(f"{one}*0.75 + {two}*0.25", TOKENIZER, length=32)
    assert mixture.paths == local_paths(f"{one}*0.75 + {two}*0.25") == (one, two)
    assert local_paths(one) == (one,)
    assert local_paths("builtin") == ()
    batches = itertools.islice(PackedBatches(mixture, batch_size=4, length=32), 20)
    a, b = (TOKENIZER.convert_tokens_to_ids(letter) for letter in "ab")
    ids = [i for batch in batches for i in batch.input_ids.flatten().tolist()]
    assert ids.count(a) / (ids.count(a) + ids.count(b)) == pytest.approx(0.75, abs=0.02)


def test_the_builtin_corpus_is_there_and_is_text():
    documents = list(itertools.islice(builtin_texts(), 100))
    assert sum(map(len, documents)) > 50_000
    assert len(set(documents)) == len(documents)


def test_builtin_mixes_text_and_samples_half_and_half():
    mixture = build_source("builtin", TOKENIZER, length=1024)
    assert [part.weight for part in mixture.parts] == [0.5, 0.5]
    assert [p.weight for p in build_source("builtin:recall=0", TOKENIZER, length=64).parts] == [1.0]
    batch = next(iter(PackedBatches(mixture, batch_size=2, length=1024)))
    assert (batch.labels != IGNORE).any()


def test_recall_samples_fit_and_are_learned_on_their_answers():
    source = RecallSource(
        TOKENIZER, max_length=700, seed=3, tasks={"niah_single": 1.0, "mqar": 1.0}
    )
    for record in itertools.islice(source.records(0), 12):
        (document,) = source.encode(record)
        again = RecallSource(
            TOKENIZER, max_length=700, seed=3, tasks={"niah_single": 1.0, "mqar": 1.0}
        )
        assert again.encode(record) == [document]
        assert len(document.ids) <= 700
        assert not document.splittable
        assert 0 < sum(document.loss_mask) < len(document.ids)
        assert document.loss_mask[-1]


def test_recall_tasks_that_do_not_fit_the_rows_are_left_out():
    with pytest.raises(HydraHeadError, match="too few"):
        RecallSource(TOKENIZER, max_length=8, seed=0)
