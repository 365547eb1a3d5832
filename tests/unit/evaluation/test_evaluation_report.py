"""The page: what stands on it, that it needs nothing else, and what it refuses."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from hydrahead.core.errors import HydraHeadError
from hydrahead.evaluation import evaluate, read_results, write_report
from hydrahead.evaluation.notes import evaluate_command
from hydrahead.evaluation.tables import score_tables
from hydrahead.plan import HeadPlan, HeadScores, ModelGeometry
from hydrahead.plan.files import write_plan
from hydrahead.plan.specs.gated_delta import GatedDeltaSpec
from hydrahead.plan.specs.window import WindowSpec

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Outline(HTMLParser):
    """Checks that tags close in order, and collects text and attributes."""

    def __init__(self, html):
        super().__init__()
        self.open, self.text, self.attributes, self.headings = [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


@pytest.fixture
def geometry(tiny_config):
    return ModelGeometry.from_config(tiny_config.to_dict())


@pytest.fixture
def evaluation(perfect, wrong, tokenizer, tmp_path, quiet):
    return evaluate(
        [(perfect, tokenizer, "teacher <1>"), (wrong, tokenizer, "hybrid")],
        tasks=["niah_single", "niah_multikey"],
        lengths=[256, 512],
        samples=10,
        seed=3,
        out=tmp_path / "evaluation",
        progress=quiet,
    )


@pytest.fixture
def scores(geometry, tmp_path):
    directory = tmp_path / "scores"
    directory.mkdir()
    values = np.array([[0.0, 0.0, 0.9, 0.1], [0.0, 0.25, 0.0, 0.0]])
    HeadScores(geometry=geometry, method="counterfactual", values=values).save(directory)
    return directory


@pytest.fixture
def plan(geometry, tmp_path):
    path = tmp_path / "mixed.json"
    full = HeadPlan.all_full(geometry)
    mixed = full.replace({(0, 1): GatedDeltaSpec(), (1, 0): WindowSpec(window=64)})
    write_plan(path, mixed, configuration={})
    return path


@pytest.fixture
def trained(tmp_path):
    directory = tmp_path / 'tr"ain<ed'
    (directory / "align").mkdir(parents=True)
    lines = [{"step": step, "loss": 2.0 / step} for step in (1, 2, 4)]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 5, "lo'
    (directory / "align" / "metrics.jsonl").write_text(text)
    return directory


def page_of(paths, tmp_path, **settings):
    out = write_report(paths, tmp_path / "pages" / "report.html", **settings)
    return out.read_text(encoding="utf-8")


def test_one_page_shows_everything_and_needs_nothing(evaluation, scores, plan, trained, tmp_path):
    html = page_of([evaluation, scores, plan, trained], tmp_path)
    outline = Outline(html)
    assert outline.headings == [
        "Models and their memory",
        "Recall by task",
        "Scores with their uncertainty",
        "Where the needle is found",
        "Which mixer runs where",
        "What the heads scored",
        "Training",
        "Samples to read",
        "Notes",
    ]
    loading = [
        value for _, name, value in outline.attributes if name in ("src", "href", "xlink:href")
    ]
    assert all(value.startswith("#") for value in loading), loading
    assert "@import" not in html
    assert "url(http" not in html
    assert "<script" not in html
    text = " ".join(outline.text)
    for expected in (
        "seed",
        "gated_delta: 1 of 4",
        "window (window 64): 1 of 4",
        'tr"ain<ed/align',
    ):
        assert expected in text
    assert "--lengths 256,512 --samples 10 --depths 0,0.25,0.5,0.75,1 --seed 3" in text
    assert "teacher &lt;1&gt;" in html
    assert "teacher <1>" not in html
    assert "ain<ed" not in html


def test_numbers_in_the_tables_are_those_of_the_results(evaluation):
    models = read_results(evaluation).models
    first, second = score_tables(models)
    assert (first.length, second.length) == ("256", "512")
    teacher, hybrid = first.rows
    assert [(cell.percent, cell.error, cell.best) for cell in teacher.cells] == [
        ("100.0", "0.0", True)
    ] * 2
    assert [(cell.percent, cell.best) for cell in hybrid.cells] == [("0.0", False)] * 2
    assert (teacher.heading.name, teacher.heading.note) == ("teacher <1>", "32.0 KiB")
    assert [column.name for column in first.columns] == ["niah_single", "niah_multikey"]
    assert teacher.cells[0].tooltip == "n = 10, 95 %: 72.2 to 100.0"


def test_many_tasks_go_down_the_page(evaluation):
    [model, other] = read_results(evaluation).models
    cell = model.cells[0]
    many = [cell.model_copy(update={"task": f"task {number}"}) for number in range(7)]
    [table] = score_tables([model.model_copy(update={"cells": tuple(many)}), other])[:1]
    assert table.rows_are == "task"
    assert [column.name for column in table.columns] == ["teacher <1>", "hybrid"]
    assert [row.heading.name for row in table.rows][:2] == ["task 0", "task 1"]
    assert table.rows[0].cells[0].percent == "100.0"
    assert table.rows[0].cells[1] is None


def test_maps_have_a_cell_per_place(evaluation, scores, plan, tmp_path):
    html = page_of([evaluation], tmp_path)
    titles = re.findall(r"<title>(.*?)</title>", html)[1:]
    needles = [title for title in titles if "95 %" in title]
    assert len(needles) == 2 * 2 * 2 * 5  # models, tasks, lengths, depths
    html = page_of([scores], tmp_path)
    cells = re.findall(r"<title>layer (\d), q_head (\d): ([\d.e-]+)</title>", html)
    assert len(cells) == 8
    assert ("0", "2", "0.9") in cells
    html = page_of([plan], tmp_path)
    cells = dict(re.findall(r"<title>(layer \d, kv_head \d): (.*?)</title>", html))
    assert cells["layer 0, kv_head 1"] == "gated_delta"
    assert cells["layer 1, kv_head 0"] == "window (window 64)"
    assert cells["layer 1, kv_head 1"] == "full"


def test_one_length_puts_the_models_of_a_task_into_one_map(
    perfect, wrong, tokenizer, tmp_path, quiet
):
    evaluation = evaluate(
        [(perfect, tokenizer, "one"), (wrong, tokenizer, "two")],
        tasks=["niah_single"],
        lengths=[512],
        samples=10,
        out=tmp_path / "e",
        progress=quiet,
    )
    html = page_of([evaluation], tmp_path, title="One length")
    assert "<title>One length - HydraHead</title>" in html
    [section] = re.findall(r'<section id="needles">.*?</section>', html, flags=re.DOTALL)
    assert section.count("<figure") == 1
    assert section.count("<title>") == 2 * 5


def test_two_evaluations_of_one_model_are_put_together(perfect, tokenizer, tmp_path, quiet):
    paths = [
        evaluate(
            [(perfect, tokenizer, "model")],
            tasks=[task],
            lengths=[512],
            samples=5,
            out=tmp_path / task,
            progress=quiet,
        )
        for task in ("niah_single", "niah_multikey")
    ]
    html = page_of(paths, tmp_path)
    [recall] = re.findall(r'<section id="recall">.*?</section>', html, flags=re.DOTALL)
    assert recall.count("<tr>") == 1 + 1  # heading and one row
    assert recall.count("&plusmn;") == 2


def test_the_same_artefacts_give_the_same_page(evaluation, scores, tmp_path):
    assert page_of([evaluation, scores], tmp_path) == page_of([evaluation, scores], tmp_path)


def test_what_cannot_be_shown_is_refused(tmp_path, evaluation):
    with pytest.raises(HydraHeadError, match="nothing to report"):
        write_report([], tmp_path / "r.html")
    with pytest.raises(HydraHeadError, match="missing: no such file or directory"):
        write_report([tmp_path / "missing"], tmp_path / "r.html")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(HydraHeadError, match="empty: holds nothing a report could show"):
        write_report([empty], tmp_path / "r.html")
    with pytest.raises(HydraHeadError, match="is a directory"):
        write_report([evaluation], empty)
    (evaluation / "results.json").write_text('{"format_version": 1, "settings": 3}')
    with pytest.raises(HydraHeadError, match=r"results\.json"):
        write_report([evaluation], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_the_command_in_the_notes_quotes_what_a_shell_would_split(evaluation):
    settings = read_results(evaluation).settings
    command = evaluate_command(["my model"], settings, "out")
    assert command.startswith("hydrahead evaluate 'my model' --tasks niah_single,niah_multikey ")
    assert command.endswith("--dtype float32 --out out")
