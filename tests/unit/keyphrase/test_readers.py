"""Text out of the files people have, and clear words about those without."""

from pathlib import Path

import pytest

from hydrahead.core.errors import HydraHeadError
from hydrahead.keyphrase.readers import read_file, text_of_html, text_of_markdown

pypdf = pytest.importorskip("pypdf")


def write_pdf(path: Path, pages: list[str], *, password: str | None = None) -> Path:
    """A PDF with a line of text per page."""
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = pypdf.PdfWriter()
    for text in pages:
        page = writer.add_blank_page(width=400, height=200)
        font = DictionaryObject(
            {
                NameObject("/Type"): NameObject("/Font"),
                NameObject("/Subtype"): NameObject("/Type1"),
                NameObject("/BaseFont"): NameObject("/Helvetica"),
            }
        )
        fonts = DictionaryObject({NameObject("/F1"): font})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET".encode())
        page[NameObject("/Contents")] = writer._add_object(stream)
    if password is not None:
        writer.encrypt(password, algorithm="RC4-128")
    writer.write(path)
    return path


def test_pdf_pages_in_order(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "a.pdf", ["Gated delta rule", "Linear attention"])
    assert read_file(path).split() == "Gated delta rule Linear attention".split()  # noqa: SIM905


def test_a_pdf_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "a.pdf", ["Gated delta"]).rename(tmp_path / "paper.txt")
    assert "Gated delta" in read_file(path)


def test_an_empty_password_opens(tmp_path: Path) -> None:
    from pypdf import PdfWriter

    path = write_pdf(tmp_path / "a.pdf", ["Gated delta"])
    writer = PdfWriter(clone_from=path)
    writer.encrypt("", owner_password="owner", algorithm="RC4-128")
    writer.write(path)
    assert "Gated delta" in read_file(path)


def test_markdown_without_its_marks() -> None:
    source = (
        "---\ntitle: x\n---\n# Gated *delta* rule\n\n- see [the paper](https://a.b/c) and `W_o`\n"
        "> __bold__ foo_bar\n\n| a | b |\n| --- | --- |\n```python\nprint(1)\n```\n<!-- no -->"
    )
    text = text_of_markdown(source)
    assert text.split() == (
        "Gated delta rule see the paper and W_o bold foo_bar a b print(1)".split()  # noqa: SIM905
    )


def test_html_without_scripts() -> None:
    source = (
        "<title>Paper</title><style>p {}</style><p>Gated<br>delta &amp; <b>win</b>dow"
        "<script>if (a < b) { c() }</script><p>end"
    )
    assert text_of_html(source).split() == ["Paper", "Gated", "delta", "&", "window", "end"]


def test_text_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfGated delta")
    assert read_file(tmp_path / "a.txt") == "Gated delta"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b" \n ... \n", "is empty"),
        ("a.html", b"<p></p><script>x</script>", "is empty"),
        ("a.txt", b"abc\0def", "NUL at byte 3"),
        ("a.txt", b"abc\xff", "not UTF-8 text"),
        ("a.pdf", b"%PDF-1.7\nnothing", "damaged PDF"),
        ("a.pdf", b"no pdf at all", "damaged PDF"),
    ],
)
def test_files_without_text_are_refused(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HydraHeadError, match=message):
        read_file(tmp_path / name)


def test_a_protected_pdf_is_refused(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "a.pdf", ["Gated delta"], password="secret")
    with pytest.raises(HydraHeadError, match="protected by a password"):
        read_file(path)


def test_a_pdf_of_pictures_is_refused(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "a.pdf", [""])
    with pytest.raises(HydraHeadError, match="PDF without text"):
        read_file(path)


def test_a_directory_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HydraHeadError, match="is a directory"):
        read_file(tmp_path)
    with pytest.raises(HydraHeadError, match="no such file"):
        read_file(tmp_path / "a.txt")
