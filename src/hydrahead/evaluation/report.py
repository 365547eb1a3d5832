"""`write_report`: one self-contained HTML page out of any number of artefacts.

Nothing on the page comes from elsewhere: pictures are SVG in the text, styles are in its head, no
script runs. What the page says is computed in `pages.py`; the template only arranges it.
"""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hydrahead.core.disk import unwritable_named
from hydrahead.core.errors import HydraHeadError
from hydrahead.core.jsonio import write_text
from hydrahead.core.places import refuse_inside
from hydrahead.evaluation.inputs import gather
from hydrahead.evaluation.pages import build_page

_TEMPLATE = "report.html.jinja"


def write_report(dirs: Sequence[Path | str], out: Path | str, *, title: str | None = None) -> Path:
    """Write a page about evaluations, scores, plans and training logs.

    Args:
        dirs: artefacts: evaluations (several are put side by side), scores, plan.json files, model
            directories with a training log or a plan. Training logs of evaluated models are found
            by themselves.
        out: the HTML file; a page that is there is replaced.
        title: the page's heading.

    Returns:
        `out`.

    Raises:
        HydraHeadError: a path that is missing or holds nothing to show, or `out` is
            something else than a page or lies inside an artefact.
    """
    out = Path(out)
    if out.is_dir():
        raise HydraHeadError("is a directory", where=out, mend="name a file such as report.html")
    if out.exists() and not out.read_bytes()[:15].lower().startswith(b"<!doctype html"):
        raise HydraHeadError("exists and is no HTML page", where=out, mend="choose another --out")
    refuse_inside(out, dirs)
    page = build_page(gather(dirs), title=title)
    environment = Environment(
        loader=PackageLoader("hydrahead.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = environment.loader.get_source(environment, "report.css")[0]  # type: ignore[union-attr]
    text = environment.get_template(_TEMPLATE).render(page=page, style=Markup(style)) + "\n"
    with unwritable_named(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, text)
    return out
