"""The text of a file: plain text, Markdown, HTML or PDF.

Told by the suffix, and PDF by its first bytes too; anything else is read as text. What is no prose
(markup, scripts, styles) is dropped; what is prose keeps its order.
"""

import re
import warnings
from html.parser import HTMLParser
from pathlib import Path

from hydrahead.core.errors import HydraHeadError

_PDF = b"%PDF-"
_BLOCKS = re.compile(
    r"address|article|aside|blockquote|br|d[dlt]|div|figcaption|footer|h[1-6r]|header|li|main|nav"
    r"|[ou]l|p|pre|section|table|t[dhr]|title"
)
_SILENT = frozenset(("script", "style", "template", "noscript", "svg", "math"))


def read_file(path: Path) -> str:
    """The text of one file.

    Raises:
        HydraHeadError: The file is missing, a directory, empty, binary, or a PDF that is
            protected, damaged or without text.
    """
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "no such file"
        raise HydraHeadError(what, where=path, mend="name a file")
    with path.open("rb") as file:
        is_pdf = file.read(len(_PDF)) == _PDF
    if is_pdf or path.suffix.lower() == ".pdf":
        text = read_pdf(path)
    else:
        text = _READERS.get(path.suffix.lower(), str)(_plain(path))
    if not any(map(str.isalnum, text)):
        raise HydraHeadError("is empty", where=path, mend="give a file with text in it")
    return text


def _plain(path: Path) -> str:
    data = path.read_bytes()
    mend = "give text in UTF-8, Markdown, HTML or PDF"
    if (place := data.find(b"\0")) >= 0:
        raise HydraHeadError(f"is binary (a NUL at byte {place})", where=path, mend=mend)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 text ({error.reason} at byte {error.start})"
        raise HydraHeadError(what, where=path, mend=mend) from None


def text_of_markdown(source: str) -> str:
    """Markdown without its marks; code stays, since names in it can be keyphrases."""
    text = re.sub(r"\A---\n.*?\n---\n", "", source, flags=re.S)  # front matter
    text = re.sub(r"<!--.*?-->", " ", text, flags=re.S)
    text = re.sub(r"^\s*(?:```|~~~).*$", "", text, flags=re.M)
    text = re.sub(r"^\s*\[[^\]]+\]:\s*\S+.*$", "", text, flags=re.M)  # link definitions
    text = re.sub(r"!?\[([^\]]*)\](?:\([^()\s]*(?:\s+\"[^\"]*\")?\)|\[[^\]]*\])", r"\1", text)
    text = re.sub(r"^\s*(?:#{1,6}|>+|[-*+]|\d+[.)])\s+", "", text, flags=re.M)
    text = re.sub(r"^\s*\|?[\s:|-]*-{3}[\s:|-]*$", "", text, flags=re.M)  # rules of tables
    text = re.sub(r"</?[a-zA-Z][^>\n]*>", " ", text)
    text = re.sub(r"(?<!\w)(?:\*{1,3}|_{1,3})(?=\S)|(?<=\S)(?:\*{1,3}|_{1,3})(?!\w)", "", text)
    return re.sub(r"[`|]+|^\s*={3,}\s*$", " ", text, flags=re.M)


class _Page(HTMLParser):
    """Collects the text of a page, with a line break where a block ends."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._silent: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        if self._silent is None and tag in _SILENT:
            self._silent = tag
        elif _BLOCKS.fullmatch(tag):
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._silent:
            self._silent = None
        elif _BLOCKS.fullmatch(tag):
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if self._silent is None:
            self.parts.append(data)


def text_of_html(source: str) -> str:
    """What a page shows, without scripts and styles; broken markup is read as far as it goes."""
    page = _Page()
    page.feed(source)
    page.close()
    return re.sub(r"\n\s*\n+", "\n\n", "".join(page.parts))


def read_pdf(path: Path) -> str:
    """The text of a PDF, page after page; words divided at a line's end are joined.

    Raises:
        HydraHeadError: The `keyphrase` extra is missing, or the file is protected by a password,
            damaged, or holds pictures of text only.
    """
    try:
        import pypdf
        from pypdf import errors
    except ImportError:
        mend = "pip install 'hydrahead[keyphrase]'"
        raise HydraHeadError("PDF needs pypdf", where=path, mend=mend) from None
    protected = HydraHeadError(
        "is protected by a password", where=path, mend="save it without one, or give its text"
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader = pypdf.PdfReader(path)
            # A PDF that only forbids printing is encrypted with an empty password.
            if reader.is_encrypted and not reader.decrypt(""):
                raise protected
            pages = [page.extract_text() for page in reader.pages]
    except errors.DependencyError as error:
        mend = "pip install cryptography, or save it without encryption"
        raise HydraHeadError("is encrypted with AES", where=path, mend=mend) from error
    except errors.FileNotDecryptedError:
        raise protected from None
    except (errors.PyPdfError, OSError, ValueError, KeyError, TypeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        mend = "open it in a viewer and save it anew"
        raise HydraHeadError(f"is a damaged PDF ({lines[0]})", where=path, mend=mend) from error
    text = "\n".join(pages)
    if not any(map(str.isalnum, text)):
        mend = "it may hold scanned pages: run text recognition first"
        raise HydraHeadError("is a PDF without text", where=path, mend=mend)
    return re.sub(r"(?<=[^\W\d_])-\n(?=[a-z])", "", text)


_READERS = {
    ".md": text_of_markdown,
    ".markdown": text_of_markdown,
    ".html": text_of_html,
    ".htm": text_of_html,
    ".xhtml": text_of_html,
}
