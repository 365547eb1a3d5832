"""Long documents with human-made keyphrases, from Debian's documentation packages.

python corpus.py FOLDER          downloads, unpacks and writes FOLDER/{train,valid,test}.jsonl

What authors marked for the index of their manual is taken as the document's keyphrases, and the
marks are removed from the text: `.. index::` directives of the Python documentation, X<> codes of
Perl's manual pages, the book index of PostgreSQL, concept indices of GNU manuals. A document is a
page (Python, Perl) or a chapter (PostgreSQL, GNU). An entry counts if it stands in the text.

The split is by document and by a hash of its name; every manual is in all three parts. Nothing of
the text is committed: packages have licences of their own and change with the distribution.
"""

import gzip
import hashlib
import html
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

PACKAGES = """
    python3.11-doc perl-doc postgresql-doc-15 autoconf-doc bash-doc octave-doc gnuplot-doc
    guile-3.0-doc mit-scheme-doc coreutils findutils libtool-doc gnupg gnutls-doc libgcrypt20-doc
    r-doc-info texinfo auctex libgpgme-dev diffutils-doc grep sed wget groff recutils
    dejagnu mailutils-doc nettle-dev stumpwm ledger cvs maxima-doc sbcl-doc singular-doc a2ps
    libtasn1-doc libidn2-doc m4-doc automake gettext-doc flex-doc tar cpio gzip gawk ed make
"""
MIN_WORDS, MAX_WORDS = 800, 16_000
MIN_PHRASES, MAX_PHRASES = 4, 100
MAX_DOCUMENTS = 140
"""Of one source, so that no manual outweighs the rest (the ones of smallest hash stay)."""
CATEGORIES = {
    "module", "statement", "object", "function", "keyword", "operator", "exception", "built-in",
    "built-in function", "index", "see", "method", "type", "example", "examples", "class",
}  # fmt: skip

LOOSE = re.compile(r"^(?:and|or|for|of|in|with|to|the|a|an|not|on|by|from|as|at|see)\b|"
                   r"\b(?:and|or|for|of|in|with|to|the|a|an|on|by|from|as|at)$", re.I)  # fmt: skip
"""An entry cut at a comma ("floats, list of") leaves such ends."""

Documents = Iterator[tuple[str, str, list[str]]]
"""Name, text, index entries."""


def unpack(folder: Path) -> Path:
    """Download the packages with the system's package manager and unpack them."""
    debs, root = folder / "debs", folder / "root"
    debs.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES.split():
        if not any(debs.glob(f"{package}_*.deb")):
            done = subprocess.run(["apt-get", "download", package], cwd=debs, check=False)
            if done.returncode:
                print(f"{package}: not to be had, left out", file=sys.stderr)
    for deb in sorted(debs.glob("*.deb")):
        if (
            deb.name.split("_")[0] in PACKAGES.split()
            and not (mark := root / f".{deb.name}").exists()
        ):
            subprocess.run(["dpkg", "-x", str(deb), str(root)], check=True)
            mark.touch()
    return root


def read(path: Path) -> str:
    """Text of a file, compressed or not."""
    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix == ".gz" else data
    return data.decode("utf-8", errors="replace")


def python_pages(root: Path) -> Documents:
    """Pages with `.. index::` directives."""
    base = root / "usr/share/doc/python3.11/html/_sources"
    for path in sorted(base.rglob("*.rst.txt")):
        entries: list[str] = []
        kept: list[str] = []
        inside = None
        for line in read(path).splitlines():
            indent = len(line) - len(line.lstrip())
            found = re.match(r"^\s*\.\. index::(.*)$", line)
            if found:
                inside = indent
                entries += re.split(r"[;,]", re.sub(r"^\s*\w+:", "", found[1]))
                continue
            if inside is not None and (not line.strip() or indent > inside):
                entries += re.split(r"[;,]", re.sub(r"^\s*!?\s*\w+:", "", line))
                continue
            inside = None
            kept.append(line)
        text = "\n".join(kept)
        text = re.sub(r"^\s*\.\. _[^:]*:\s*$|^\s*\.\. [\w-]+::", "", text, flags=re.M)
        text = re.sub(r":[\w:+-]+:`[!~]?([^`<]*?)\s*(?:<[^>]*>)?`", r"\1", text)
        text = re.sub(r"^\s*:[\w ]+:|^[=\-*~^#\"+]{3,}$|``?|\*\*?|\|", " ", text, flags=re.M)
        yield path.relative_to(base).as_posix(), text, entries


def perl_pages(root: Path) -> Documents:
    """Manual pages with X<> codes."""
    for path in sorted(root.glob("usr/share/perl/*/pod/*.pod")):
        text = read(path)
        entries = re.findall(r"X<([^<>]+)>", text)
        text = re.sub(r"X<[^<>]*>", "", text)
        for _ in range(3):
            text = re.sub(r"L<(?:([^<>|]*)\|)?([^<>]*)>", lambda m: m[1] or m[2], text)
            text = re.sub(r"[A-Z]<([^<>]*)>", r"\1", text)
        text = re.sub(r"^=(?:head\d|item|over|back|begin|end|for|cut|encoding|pod)\b", "", text,
                      flags=re.M)  # fmt: skip
        yield path.name, re.sub(r"E<\w+>", " ", text), entries


class Page(HTMLParser):
    """Text of a page of the PostgreSQL manual, and the page above it."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.up = ""
        self._navigation = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Skip the navigation, but read who is above."""
        given = dict(attrs)
        if tag == "a" and given.get("accesskey") == "u":
            self.up = given.get("href") or ""
        if self._navigation or (tag == "div" and (given.get("class") or "").startswith("nav")):
            self._navigation += tag == "div"

    def handle_endtag(self, tag: str) -> None:
        """Leave the navigation."""
        self._navigation -= bool(self._navigation and tag == "div")
        if tag in ("p", "h1", "h2", "h3", "h4", "pre", "td", "li", "dt", "dd"):
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        """Collect the text."""
        if not self._navigation:
            self.parts.append(data)


def postgres_chapters(root: Path) -> Documents:
    """Chapters with what the book's index says of them."""
    base = root / "usr/share/doc/postgresql-doc-15/html"
    pages: dict[str, Page] = {}
    for path in sorted(base.glob("*.html")):
        pages[path.name] = page = Page()
        page.feed(read(path))

    def chapter(name: str) -> str:
        while (up := pages[name].up) in pages and pages[up].up in pages and up != "index.html":
            if pages[up].up == "index.html" or pages[pages[up].up].up == "index.html":
                return name if pages[up].up == "index.html" else up
            name = up
        return name

    entries: dict[str, list[str]] = defaultdict(list)
    for item in re.findall(r"<dt[^>]*>(.*?)</dt>", read(base / "bookindex.html"), re.S):
        words = html.unescape(re.sub(r"<[^>]+>", "", item.split('<a class="indexterm"')[0]))
        for name in re.findall(r'class="indexterm" href="([\w.-]+\.html)', item):
            entries[chapter(name)].append(words.strip(" ,\n"))
    members: dict[str, list[str]] = defaultdict(list)
    for name in pages:
        if name not in ("bookindex.html", "index.html", "biblio.html") and "release" not in name:
            members[chapter(name)].append(name)
    for name, names in members.items():
        text = "\n".join("".join(pages[page].parts) for page in names)
        yield name, text, entries[name]


def gnu_chapters(root: Path) -> Documents:
    """Chapters of Info manuals with their entries in the concept index."""
    manuals: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(root.rglob("*.info*.gz")):
        if "python" not in path.name and "policy" not in path.name:
            manuals[re.sub(r"\.info.*$", "", path.name)].append(path)
    for manual, paths in sorted(manuals.items()):
        paths.sort(key=lambda p: int((re.findall(r"info-(\d+)", p.name) or ["0"])[0]))
        nodes: dict[str, tuple[str, str]] = {}
        for part in "".join(map(read, paths)).split("\x1f\n"):
            head, _, body = part.partition("\n")
            name = re.search(r"Node: ([^,\n]*)", head)
            up = re.search(r"Up: ([^,\n]*)", head)
            if name:
                nodes[name[1].strip()] = (up[1].strip() if up else "", body)
        yield from _chapters(manual, nodes)


def _chapters(manual: str, nodes: dict[str, tuple[str, str]]) -> Documents:
    def chapter(name: str) -> str:
        for _ in range(9):
            up = nodes[name][0]
            if up in ("Top", "(dir)", "") or up not in nodes:
                break
            name = up
        return name

    indices = [n for n, (_, body) in nodes.items() if "[index" in body[:3000] or n == "Index"]
    concepts = [n for n in indices if re.search(r"concept|general", n, re.I)] or (
        indices if len(indices) == 1 else []
    )
    entries: dict[str, list[str]] = defaultdict(list)
    for index in concepts:
        for entry, node in re.findall(r"^\* (.+?):\s+([^\n]+?)\.\s+\(line", nodes[index][1], re.M):
            if node in nodes:
                clean = re.sub(r"\s*<\d+>$", "", entry)
                entries[chapter(node)] += re.split(r", | and ", clean) if "," in clean else [clean]
    members: dict[str, list[str]] = defaultdict(list)
    for name in nodes:
        if name not in indices:
            members[chapter(name)].append(name)
    for top, names in members.items():
        text = "\n".join(re.sub(r"^\* Menu:.*?(?:\n\n|\Z)", "", nodes[n][1], flags=re.S | re.M)
                         for n in names)  # fmt: skip
        text = re.sub(r"[\x00-\x08]\[index[\x00-\x08]\]|[_\u2018\u2019]|^[*=\-.]{3,}$", " ", text,
                      flags=re.M)  # fmt: skip
        yield f"{manual}/{top}", text, entries[top]


def keyphrases(text: str, entries: list[str]) -> list[str]:
    """Index entries of one to five words that stand in the text, each once."""
    flat = f" {' '.join(re.findall(r'[a-z0-9]+', text.lower()))} "
    kept: dict[str, str] = {}
    for entry in entries:
        entry = re.sub(r"\s+", " ", html.unescape(entry)).strip(" \t!`'\"()*.,:;")
        words = re.findall(r"[a-z0-9]+", entry.lower())
        letters = sum(map(str.isalpha, entry))
        if not 1 <= len(words) <= 5 or letters < 3 or letters < 0.6 * len(entry):
            continue
        if entry.lower() in CATEGORIES or LOOSE.search(entry):
            continue
        if f" {' '.join(words)} " in flat:
            kept.setdefault(" ".join(words), entry)
    return list(kept.values())


SOURCES = {
    "python": python_pages,
    "perl": perl_pages,
    "postgresql": postgres_chapters,
    "gnu": gnu_chapters,
}


def part_of(name: str) -> str:
    """Seven tenths train, one valid, two test, by the name alone."""
    number = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % 10
    return "train" if number < 7 else "valid" if number == 7 else "test"


def build(folder: Path) -> dict[str, Any]:
    """Write the three files; returns what is in them."""
    root = unpack(folder)
    kept: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    for source, read_source in SOURCES.items():
        found = []
        for name, text, entries in read_source(root):
            phrases = keyphrases(text, entries)
            words = len(re.findall(r"\w+", text))
            counts[f"{source} read"] += 1
            if MIN_WORDS <= words <= MAX_WORDS and MIN_PHRASES <= len(phrases) <= MAX_PHRASES:
                identity = f"{source}/{name}"
                found.append({"id": identity, "text": text, "keyphrases": phrases})
        found.sort(key=lambda d: hashlib.sha256(d["id"].encode()).hexdigest())
        kept += found[:MAX_DOCUMENTS]
        counts[f"{source} kept"] = len(found[:MAX_DOCUMENTS])
    for part in ("train", "valid", "test"):
        chosen = sorted((d for d in kept if part_of(d["id"]) == part), key=lambda d: d["id"])
        lines = "".join(json.dumps(d, ensure_ascii=False) + "\n" for d in chosen)
        (folder / f"{part}.jsonl").write_text(lines, encoding="utf-8")
        counts[f"{part} documents"] = len(chosen)
        counts[f"{part} words"] = sum(len(re.findall(r"\w+", d["text"])) for d in chosen)
        counts[f"{part} keyphrases"] = sum(len(d["keyphrases"]) for d in chosen)
    return dict(counts)


if __name__ == "__main__":
    print(json.dumps(build(Path(sys.argv[1])), indent=1))
