"""Documents in the forms the field's corpora have."""

from pathlib import Path
from typing import Any

import pytest
from tiny_encoder import write_jsonl

from hydrahead.core.errors import HydraHeadError
from hydrahead.keyphrase import datasets
from hydrahead.keyphrase.datasets import read_documents

MIDAS = {
    "id": 7,
    "document": ["Gated", "delta", "rule", "."],
    "doc_bio_tags": ["B", "I", "O", "O"],
    "extractive_keyphrases": ["gated delta"],
    "abstractive_keyphrases": ["recurrence"],
}
LDKP = {
    "id": "x",
    "sections": ["intro", "end"],
    "sec_text": [["Gated", "delta"], ["rule"]],
    "sec_bio_tags": [["B", "I"], ["O"]],
}


def test_fields_of_midas_and_ldkp(tmp_path: Path) -> None:
    first, second = read_documents(write_jsonl(tmp_path / "a.jsonl", [MIDAS, LDKP]))
    assert first.id == "7"
    assert first.text == "Gated delta rule ."
    assert first.keyphrases == ("gated delta", "recurrence")
    assert first.labels().tolist() == [1, 2, 0, 0]
    assert list(second.words()) == ["Gated", "delta", "rule"]
    assert second.keyphrases == ("Gated delta",)  # from its tags


def test_text_records_are_tagged_from_their_keyphrases(tmp_path: Path) -> None:
    record = {"text": "The gated deltas.", "keyphrases": ["gated delta"]}
    (document,) = read_documents(write_jsonl(tmp_path / "a.jsonl", [record]))
    assert document.labels().tolist() == [0, 1, 2, 0]
    assert document.id == "1"


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist([MIDAS]), tmp_path / "a.parquet")
    (document,) = read_documents(tmp_path / "a.parquet")
    assert document.labels().tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "there is no document"),
        ([{"text": "a"}], "has no keyphrases"),
        ([{"title": "a", "keyphrases": []}], "has no text, but keyphrases, title"),
        ([{"text": " ", "keyphrases": []}], "is empty"),
        ([{"text": "a", "keyphrases": "b"}], "no list of texts"),
        ([{"document": ["a"], "doc_bio_tags": ["B", "I"]}], "needs 1 tags"),
        ([{"id": 1, "text": "a", "keyphrases": []}] * 2, "comes twice"),
        ([[]], "is not an object"),
    ],
)
def test_wrong_records_are_refused(records: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(HydraHeadError, match=message):
        read_documents(write_jsonl(tmp_path / "a.jsonl", records))


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xff\0")
    with pytest.raises(HydraHeadError, match="line 1: is not JSON"):
        read_documents(tmp_path / "a.jsonl")
    with pytest.raises(HydraHeadError, match="is a directory"):
        read_documents(tmp_path)


def hub(monkeypatch: pytest.MonkeyPatch, folders: dict[str | None, Path | None]) -> None:
    def fetch(name: str, patterns: list[str], revision: str | None, source: str) -> Path | None:
        del name, patterns, source
        return folders[revision]

    monkeypatch.setattr(datasets, "_fetch", fetch)


def test_a_dataset_is_read_from_its_own_data_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "test.jsonl", [MIDAS])
    write_jsonl(tmp_path / "valid.jsonl", [LDKP])
    (tmp_path / "inspec.py").write_text("raise SystemExit")
    hub(monkeypatch, {None: tmp_path})
    assert [d.id for d in read_documents("hf:midas/inspec:test")] == ["7"]
    assert [d.id for d in read_documents("hf:midas/inspec:validation")] == ["x"]


def test_else_from_the_parquet_branch_by_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, converted = tmp_path / "own", tmp_path / "parquet"
    for name, record in (("small", MIDAS), ("large", LDKP)):
        (converted / name).mkdir(parents=True)
        write_jsonl(converted / name / "train-0.jsonl", [record])
    own.mkdir()
    hub(monkeypatch, {None: own, "refs/convert/parquet": converted})
    assert [d.id for d in read_documents("hf:midas/ldkp3k:small:train")] == ["7"]
    assert [d.id for d in read_documents("hf:midas/ldkp3k:large:train")] == ["x"]


def test_a_dataset_that_is_only_a_script_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub(monkeypatch, {None: tmp_path, "refs/convert/parquet": None})
    with pytest.raises(HydraHeadError, match="no data files of the split 'test'"):
        read_documents("hf:midas/inspec:test")


@pytest.mark.parametrize("source", ["hf:midas/inspec", "hf:inspec:test", "hf:a/b:c:d:e"])
def test_wrong_addresses_are_refused(source: str) -> None:
    with pytest.raises(HydraHeadError, match="not the address of a dataset"):
        read_documents(source)


def test_without_a_network_the_hub_cannot_be_reached() -> None:
    with pytest.raises(HydraHeadError, match="cannot be fetched"):
        read_documents("hf:midas/inspec:test")
