"""The exposition: every family is there with the right value and labels, and the dashboard asks for nothing that is not.

If this fails: a graph is empty or lies, and an alert never fires.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from admin.watching.health import Problem
from admin.watching.metrics import METRICS, exposition
from admin.watching.pages import pages
from admin.watching.sample import NodeSample, OperationSample
from admin.watching.watch import Health, Standing
from tests.unit.admin.watching.samples import a_node, a_volume, histogram

TOP = Path(__file__).parents[4]
DASHBOARD = TOP / "admin/grafana/vpool.json"

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def series(sample: NodeSample, *standing: Standing) -> Series:
    found: Series = {}
    for family in text_string_to_metric_families(exposition(Health(sample, standing)).decode()):
        for each in family.samples:
            key = (each.name, frozenset(each.labels.items()))
            assert key not in found, f"twice: {key}"
            found[key] = each.value
    return found


def value(found: Series, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def test_every_family_of_the_table_has_series_and_there_is_no_other() -> None:
    names = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name, _ in series(a_node())}
    ours = {name for name in names if name.startswith("vpool_")}
    assert ours == {kind.name for kind in METRICS}
    assert {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"} <= names


def test_labels_are_those_of_the_table() -> None:
    labels: dict[str, set[str]] = {}
    for name, pairs in series(a_node()):
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        labels.setdefault(family, set()).update(key for key, _ in pairs if key != "le")
    for kind in METRICS:
        assert labels[kind.name] == set(kind.labels), kind.name


def test_values_are_those_of_the_sample() -> None:
    found = series(a_node())
    volume = {"object": "0" * 32, "volume": "machines/web.raw"}
    assert value(found, "vpool_volume_requests_total", operation="read", **volume) == 3
    assert value(found, "vpool_volume_requests_failed_total", operation="read", **volume) == 1
    assert value(found, "vpool_volume_bytes_total", operation="read", **volume) == 4096
    assert value(found, "vpool_volume_request_seconds_count", operation="read", **volume) == 3
    assert value(found, "vpool_volume_request_seconds_sum", operation="read", **volume) == 0.00005
    assert value(found, "vpool_volume_request_seconds_bucket", operation="read", le="8.192e-06", **volume) == 1
    assert value(found, "vpool_volume_request_seconds_bucket", operation="read", le="1.6384e-05", **volume) == 3
    assert value(found, "vpool_volume_request_seconds_bucket", operation="read", le="+Inf", **volume) == 3
    assert value(found, "vpool_registry_commands_total", command="AdvanceHeads", outcome="applied") == 4
    assert value(found, "vpool_registry_commands_total", command="AdvanceHeads", outcome="refused") == 1
    assert value(found, "vpool_uploads_queued") == 2
    assert value(found, "vpool_events_total") == 17


def test_problems_are_counted_by_code_and_mutes_are_marked() -> None:
    standing = Standing(Problem("WRITERS_WAIT", "a.raw", "3 wait"), since=1.0, muted=True, muted_until=None)
    found = series(a_node(), standing)
    assert value(found, "vpool_health_problems", code="WRITERS_WAIT", severity="critical", muted="true") == 1
    assert value(found, "vpool_health_problems", code="DIRTY_OLD", severity="warning", muted="false") == 0


def test_a_deleted_volume_has_no_series() -> None:
    before = series(a_node(volumes=(a_volume(), a_volume(object="1" * 32, path="b.raw"))))
    after = series(a_node())
    assert {key for key in before if ("volume", "b.raw") in key[1]}
    assert not {key for key in after if ("volume", "b.raw") in key[1]}


@pytest.mark.parametrize("path", ['with "quotes"\\.raw', "new\nline.raw", "not\udcffutf8.raw", "(0123)"])
def test_odd_names_do_not_break_the_format(path: str) -> None:
    found = series(a_node(volumes=(a_volume(path=path, operations={"read": OperationSample(0, 0, histogram())}),)))
    printed = path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    assert value(found, "vpool_volume_open", object="0" * 32, volume=printed) == 1


def test_the_dashboard_asks_for_nothing_that_is_not_there() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    found = series(a_node())
    labels: dict[str, set[str]] = {}
    for name, pairs in found:
        labels.setdefault(name, {"instance", "job"}).update(key for key, _ in pairs)
    expressions = _expressions(dashboard)
    assert len(expressions) > 40
    used: set[str] = set()
    for expression in expressions:
        names = set(re.findall(r"\b((?:vpool|process)_\w+)", expression))
        assert names, expression
        used |= names
        for name, selector in re.findall(r"\b((?:vpool|process)_\w+)\{([^}]*)\}", expression):
            assert name in labels, f"{name} is not a series: {expression}"
            assert set(re.findall(r"(\w+)=", selector)) <= labels[name], expression
        assert names <= labels.keys(), expression
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used}
    assert {kind.name for kind in METRICS} <= families, "the dashboard leaves something out"


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not cells & places, panel["title"]
        places |= cells


def test_the_pages_are_what_the_tables_say() -> None:
    for name, text in pages().items():
        assert (TOP / "docs" / name).read_text(encoding="utf-8") == text, f"docs/{name} is stale; run `make docs`"


def _expressions(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["expr"]] if isinstance(node.get("expr"), str) else []
        if isinstance(node.get("query"), str) and node["query"].startswith("label_values"):
            own.append(node["query"])
        return own + [found for child in node.values() for found in _expressions(child)]
    if isinstance(node, list):
        return [found for child in node for found in _expressions(child)]
    return []
