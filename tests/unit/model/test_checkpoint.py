"""Checkpoint files: what we read is what is there, what we write the safetensors library reads, and
every defect is one line that names file, tensor and mend."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from hydrahead.core.errors import HydraHeadError
from hydrahead.model.checkpoint import INDEX_FILE, SafetensorsReader, ShardWriter

TENSORS = {
    "b.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "a.odd": torch.randn(5, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16),
    "c.half": torch.full((2, 3), 1.5, dtype=torch.float16),
    "scalar": torch.tensor(3.0),
    "empty": torch.zeros(0, 4),
    "bytes": torch.arange(7, dtype=torch.uint8),
}


def _file(directory: Path, tensors: dict[str, torch.Tensor] = TENSORS, name: str = "model") -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / f"{name}.safetensors"
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    return path


def _shards(directory: Path) -> Path:
    names = sorted(TENSORS)
    index = {}
    for i, part in enumerate((names[:3], names[3:])):
        _file(directory, {name: TENSORS[name] for name in part}, f"model-{i + 1:05d}-of-00002")
        index |= dict.fromkeys(part, f"model-{i + 1:05d}-of-00002.safetensors")
    path = directory / INDEX_FILE
    path.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return path


def test_reads_what_the_library_wrote(tmp_path: Path) -> None:
    _file(tmp_path)
    reader = SafetensorsReader(tmp_path)
    assert reader.names() == tuple(sorted(TENSORS))
    for name, tensor in TENSORS.items():
        assert reader.read(name).dtype == tensor.dtype
        assert torch.equal(reader.read(name), tensor)


def test_reads_shards(tmp_path: Path) -> None:
    _shards(tmp_path)
    reader = SafetensorsReader(tmp_path)
    assert all(torch.equal(reader.read(name), tensor) for name, tensor in TENSORS.items())


def test_same_compares_values_piece_by_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hydrahead.model.checkpoint._PIECE_BYTES", 8)
    one = torch.arange(9.0)
    other = one.clone()
    other[8] = 1
    _file(tmp_path, {"one": one, "copy": one.clone(), "other": other, "flat": one[:8].clone()})
    reader = SafetensorsReader(tmp_path)
    assert reader.same("one", "copy")
    assert not reader.same("one", "other")
    assert not reader.same("one", "flat")


@pytest.mark.parametrize("max_bytes", [1 << 30, 40, 1])
def test_writes_what_the_library_reads(tmp_path: Path, max_bytes: int) -> None:
    with ShardWriter(tmp_path, max_bytes=max_bytes) as writer:
        for name, tensor in TENSORS.items():
            writer.add(name, tensor)
    files = sorted(tmp_path.glob("*.safetensors"))
    found = {name: t for file in files for name, t in safetensors.torch.load_file(file).items()}
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    if max_bytes == 1 << 30:
        assert [file.name for file in files] == ["model.safetensors"]
    else:
        index = json.loads((tmp_path / INDEX_FILE).read_text())
        assert index["metadata"]["total_size"] == sum(t.nbytes for t in TENSORS.values())
        assert set(index["weight_map"].values()) == {file.name for file in files}
        assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    assert not list(tmp_path.glob("*.tmp"))
    assert not (tmp_path / "shards.json").exists()
    assert all(torch.equal(SafetensorsReader(tmp_path).read(n), t) for n, t in TENSORS.items())


def test_the_same_tensors_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    for directory, order in (
        (tmp_path / "a", sorted(TENSORS)),
        (tmp_path / "b", sorted(TENSORS)[::-1]),
    ):
        directory.mkdir()
        with ShardWriter(directory) as writer:
            for name in order:
                writer.add(name, TENSORS[name])
    files = [(tmp_path / d / "model.safetensors").read_bytes() for d in "ab"]
    assert files[0] == files[1]


def test_a_view_does_not_keep_its_base(tmp_path: Path) -> None:
    base = torch.zeros(1000, 8)
    writer = ShardWriter(tmp_path)
    writer.add("row", base[3])
    assert writer._waiting["row"].untyped_storage().nbytes() == 32


def test_a_writer_takes_up_where_the_last_one_stopped(tmp_path: Path) -> None:
    first = ShardWriter(tmp_path, max_bytes=8)
    for layer in range(3):
        first.add(f"{layer}.x", torch.full((2,), float(layer)))
        first.end_group(f"layer {layer}")
    second = ShardWriter(tmp_path, max_bytes=8)
    assert second.done_groups == {"layer 0", "layer 1", "layer 2"}
    second.add("2.x", torch.full((2,), 99.0))  # already on disk: the first writer's value stays
    second.add("3.x", torch.full((2,), 3.0))
    second.close()
    reader = SafetensorsReader(tmp_path)
    assert [reader.read(f"{layer}.x")[0].item() for layer in range(4)] == [0, 1, 2, 3]


def test_a_writer_stopped_while_renaming_is_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = ShardWriter(tmp_path, max_bytes=8)
    for i in range(3):
        writer.add(f"{i}.x", torch.full((2,), float(i)))
    renamed = []

    def stop(source: Path, target: Path) -> None:
        if renamed:
            raise KeyboardInterrupt
        renamed.append(target)
        Path(source).rename(target)

    with monkeypatch.context() as patch:
        patch.setattr("hydrahead.model.shard_writer.os.replace", stop)
        with pytest.raises(KeyboardInterrupt):
            writer.close()
    ShardWriter(tmp_path, max_bytes=8).close()
    assert len(SafetensorsReader(tmp_path).names()) == 3


def test_a_full_disk_leaves_no_half_written_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: memoryview) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hydrahead.model.shard_writer.os.write", full)
    writer = ShardWriter(tmp_path, max_bytes=8)
    with pytest.raises(OSError, match="No space left"):
        writer.add("x", torch.zeros(2))
    assert not list(tmp_path.iterdir())


def _cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def _rewrite_header(path: Path, change: Callable[[dict], None]) -> None:
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    change(header)
    new = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(new)) + new + raw[8 + length :])


def _set(name: str, key: str, value: object) -> Callable[[Path], None]:
    return lambda path: _rewrite_header(path, lambda header: header[name].__setitem__(key, value))


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "truncated: only 0 bytes"),
    "only a length": (lambda path: _cut(path, 8), "truncated: the header ends"),
    "cut in the header": (lambda path: _cut(path, 60), "truncated: the header ends"),
    "cut in the data": (lambda path: _cut(path, path.stat().st_size - 3), "truncated: tensor"),
    "bytes too many": (
        lambda path: path.write_bytes(path.read_bytes() + b"xx"),
        "2 bytes after the last",
    ),
    "wild length": (lambda path: path.write_bytes(b"\xff" * 64), "header length"),
    "git lfs": (
        lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid x\n"),
        "git lfs pull",
    ),
    "not JSON": (lambda path: path.write_bytes(struct.pack("<Q", 4) + b"{{{{"), "not valid JSON"),
    "not an object": (
        lambda path: path.write_bytes(struct.pack("<Q", 4) + b"[1] "),
        "not a JSON object",
    ),
    "a name twice": (
        lambda path: path.write_bytes(struct.pack("<Q", 16) + b'{"a":{},"a":{}} '),
        "'a' occurs twice",
    ),
    "unknown dtype": (_set("scalar", "dtype", "F7"), "'scalar' has unknown dtype 'F7'"),
    "size and shape disagree": (_set("b.weight", "shape", [3, 5]), "'b.weight' of shape [3, 5]"),
    "negative shape": (_set("b.weight", "shape", [-3, -4]), "'b.weight' has shape [-3, -4]"),
    "offsets are text": (_set("scalar", "data_offsets", "here"), "offsets 'here'"),
    "overlap": (_set("c.half", "data_offsets", [0, 12]), "overlaps the tensor before it"),
    "beyond the end": (_set("c.half", "data_offsets", [1000, 1012]), "unused"),
    "field missing": (
        lambda path: _rewrite_header(path, lambda header: header["scalar"].pop("dtype")),
        "'scalar' has no dtype",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    path = _file(tmp_path)
    change, told = DAMAGES[damage]
    change(path)
    with pytest.raises(HydraHeadError) as caught:
        SafetensorsReader(tmp_path)
    assert told in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.mend
    assert "\n" not in str(caught.value)


def test_a_file_cut_after_opening_is_named(tmp_path: Path) -> None:
    path = _file(tmp_path)
    reader = SafetensorsReader(tmp_path)
    last = max(reader.names(), key=lambda name: reader.entry(name).offset)
    _cut(path, path.stat().st_size - 1)
    with pytest.raises(HydraHeadError, match=f"truncated inside tensor '{last}'"):
        reader.read(last)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda d: (d / "model-00002-of-00002.safetensors").unlink(),
            "model-00002-of-00002.safetensors",
        ),
        (lambda d: (d / INDEX_FILE).unlink(), f"neither model.safetensors nor {INDEX_FILE}"),
        (lambda d: (d / INDEX_FILE).write_text("{"), "not valid JSON"),
        (lambda d: (d / INDEX_FILE).write_text("{}"), "no weight_map"),
        (
            lambda d: (d / INDEX_FILE).write_text('{"weight_map": {"x": "../x.safetensors"}}'),
            "outside the directory",
        ),
        (
            lambda d: (d / INDEX_FILE).write_text(
                '{"weight_map": {"nowhere": "model-00001-of-00002.safetensors"}}'
            ),
            "'nowhere' is not in shard",
        ),
        (
            lambda d: _file(
                d,
                {"scalar": TENSORS["scalar"]} | {n: TENSORS[n] for n in sorted(TENSORS)[:3]},
                "model-00001-of-00002",
            ),
            "'scalar' is also in",
        ),
    ],
)
def test_a_broken_set_of_shards_is_named(
    tmp_path: Path, change: Callable[[Path], object], told: str
) -> None:
    _shards(tmp_path)
    change(tmp_path)
    with pytest.raises(HydraHeadError) as caught:
        SafetensorsReader(tmp_path)
    assert told in str(caught.value)


def test_pickles_are_refused_with_the_way_to_convert(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(HydraHeadError, match=r"pytorch_model\.bin.*save_pretrained"):
        SafetensorsReader(tmp_path)


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HydraHeadError, match="no weights"):
        SafetensorsReader(tmp_path)
    with pytest.raises(HydraHeadError, match="no such directory"):
        SafetensorsReader(tmp_path / "nowhere")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_are_named(tmp_path: Path, dtype: torch.dtype, value: float) -> None:
    bad = torch.ones(3, 5, dtype=dtype)
    bad[2, 4] = value
    path = _file(tmp_path, {"good": torch.ones(2), "bad": bad})
    reader = SafetensorsReader(tmp_path)
    reader.read("good")
    with pytest.raises(
        HydraHeadError, match="'bad' holds 1 NaN or infinite values of 15"
    ) as caught:
        reader.read("bad")
    assert caught.value.where == str(path)
    assert reader.read("bad", check_finite=False).shape == (3, 5)


def test_large_finite_values_are_no_infinities(tmp_path: Path) -> None:
    _file(tmp_path, {"x": torch.full((100,), 3e38)})
    assert SafetensorsReader(tmp_path).read("x").shape == (100,)


def test_check_names_missing_superfluous_and_misshapen(tmp_path: Path) -> None:
    _file(
        tmp_path, {"x": torch.ones(2, 3), "y": torch.ones(1), "q": torch.ones(2, dtype=torch.int8)}
    )
    reader = SafetensorsReader(tmp_path)
    good = {"x": (2, 3), "y": (1,)}
    reader.check(good, ignore="^q$")
    with pytest.raises(HydraHeadError, match="missing tensor z"):
        reader.check(good | {"z": (1,)})
    with pytest.raises(HydraHeadError, match="does not have tensor q"):
        reader.check(good)
    with pytest.raises(
        HydraHeadError, match=r"'x' has shape \[2, 3\], config.json asks for \[3, 2\]"
    ):
        reader.check(good | {"x": (3, 2)})
    with pytest.raises(HydraHeadError, match="'q' has dtype I8"):
        reader.check(good | {"q": (2,)})
