"""The project's own files, for the tests that look at all of them."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "hydrahead"
TEXT = {".py", ".md", ".toml", ".txt", ".json", ".html", ".jinja", ".cfg", ".yml", ".yaml", ""}


def python_files(folder: Path = PACKAGE) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def project_files() -> list[Path]:
    """Files git tracks, or would; where there is no git, those of src and tests."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return [path for name in ("src", "tests") for path in (ROOT / name).rglob("*.*")]
    return [path for path in map(ROOT.joinpath, listed) if path.is_file()]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
