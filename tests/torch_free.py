"""Python code for another process that uses `core`, `tasks` or `plan` and must not wait for torch.

`import hydrahead` loads transformers to register with its Auto classes; a stand-in for the package
itself leads straight to the rooms.
"""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "hydrahead"

PREAMBLE = f"""
import sys, types
stand_in = types.ModuleType("hydrahead")
stand_in.__path__ = [{str(PACKAGE)!r}]
sys.modules["hydrahead"] = stand_in
"""
