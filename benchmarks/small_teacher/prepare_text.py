"""Collect the small teacher's training text from unpacked Debian documentation packages.

    apt-get download perl-doc linux-doc-6.1 python3.11-doc manpages manpages-dev
    for f in *.deb; do dpkg -x $f unpacked; done
    python benchmarks/small_teacher/prepare_text.py unpacked text.jsonl.xz --megabytes 40

Writes one JSON object with a `text` field per document, shuffled with a fixed seed and cut to the
size asked for. The text itself is not part of this repository.
"""

import argparse
import gzip
import json
import lzma
import random
import re
from collections.abc import Iterator
from pathlib import Path

TEXT_SUFFIXES = (".rst", ".txt", ".pod", ".1", ".2", ".3", ".4", ".5", ".7", ".8")
SMALLEST_DOCUMENT = 400
"""Characters; shorter files are include stubs and index pages."""


def read_text(path: Path) -> str | None:
    """The file's text, gunzipped where needed; None if it is not text or not a document."""
    name = path.name.removesuffix(".gz")
    if not name.endswith(TEXT_SUFFIXES):
        return None
    data = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def strip_roff(text: str) -> str:
    """A manual page's prose: macros dropped, font changes and escaped characters undone."""
    kept = [
        re.sub(r"^\.(B|I|BR|IR|RB|BI|IB|SH|SS)\s+", "", line)
        for line in text.splitlines()
        if not re.match(r"^['.](?!(B|I|BR|IR|RB|BI|IB|SH|SS)\s)", line)
    ]
    plain = re.sub(r"\\f[BIRP]|\\&|\\,|\\/", "", "\n".join(kept))
    return plain.replace("\\-", "-").replace("\\(aq", "'").replace("\\e", "\\").replace('"', "")


def documents(root: Path) -> Iterator[str]:
    """Every documentation text below `root`, in path order."""
    for path in sorted(root.rglob("*")):
        if not path.is_file() or path.is_symlink():
            continue
        text = read_text(path)
        if text is None:
            continue
        if re.search(r"\.[1-8](\.gz)?$", path.name):
            text = strip_roff(text)
        if len(text) >= SMALLEST_DOCUMENT:
            yield re.sub(r"\n{3,}", "\n\n", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--megabytes", type=float, default=40.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    found = list(dict.fromkeys(documents(arguments.root)))
    random.Random(arguments.seed).shuffle(found)
    budget = int(arguments.megabytes * 1e6)
    with lzma.open(arguments.out, "wt", encoding="utf-8") as out:
        for text in found:
            if budget <= 0:
                break
            budget -= len(text)
            out.write(json.dumps({"text": text}) + "\n")
    print(f"{len(found)} documents found, {arguments.out.stat().st_size / 1e6:.1f} MB written")


if __name__ == "__main__":
    main()
