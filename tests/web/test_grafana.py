"""docs/grafana: the dashboard imports, the alerts fire on their causes, and both ask only for metrics that exist."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families
from ring_fixtures import served_ring

from ringfeed.cli.report import LaneStatus
from ringfeedd.ring.failures import Failure
from ringfeedd.web.metrics import metrics_text
from ringfeedd.web.snapshot import look

GRAFANA = Path(__file__).parents[2] / "docs/grafana"
DASHBOARD = json.loads((GRAFANA / "ringfeed.json").read_text())
ALERTS = GRAFANA / "alerts.yml"
LANE = LaneStatus(0, 1, "job", 0, 1, 4, 17, 0, 4, 1.5, 0.0, "block", 0)
GRID_WIDTH = 24

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def promtool(*words, text=None):
    done = subprocess.run(["promtool", *map(str, words)], input=text, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def exposed():
    """What a daemon with a reader and a failed pair shows."""
    with served_ring(slots=16) as served:
        served.service.failures.fail(Failure("a", "no such object", "missing", 2))
        served.turn()
        view = look(served.service)
        failed = dataclasses.replace(view.failed, causes={"missing": 1})
        view = dataclasses.replace(
            view, status=dataclasses.replace(view.status, consumers=[LANE]), failed=failed, waited={("job", 0): 1.5}
        )
        yield metrics_text([view]).decode()


@pytest.fixture(scope="module")
def labels(exposed):
    """The labels of each series by its name; a scrape adds instance and job."""
    found = {"up": {"instance", "job"}}  # Prometheus' own
    for family in text_string_to_metric_families(exposed):
        found.setdefault(f"{family.name}_total" if family.type == "counter" else family.name, set())
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels, ("instance", "job"))
    return found


def panels():
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions():
    """Every query: by what it is for."""
    found = {
        f"panel {panel['title']!r} {each['refId']}": each["expr"] for panel in panels() for each in panel["targets"]
    }
    found |= {f"variable {each['name']}": each["query"]["query"] for each in DASHBOARD["templating"]["list"][1:]}
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        found |= {f"alert {rule['alert']}": rule["expr"] for rule in group["rules"]}
    return found


def lost(ours, kept, where="dashboard"):
    """Yield where a part of ours is missing or another one."""
    if isinstance(ours, dict) and isinstance(kept, dict):
        for key, value in ours.items():
            yield from lost(value, kept[key], f"{where}.{key}") if key in kept else [f"{where}.{key}"]
    elif isinstance(ours, list) and isinstance(kept, list) and len(ours) == len(kept):
        for number, (one, other) in enumerate(zip(ours, kept, strict=True)):
            yield from lost(one, other, f"{where}[{number}]")
    elif ours != kept:
        yield where


def test_the_dashboard_has_the_keys_of_grafanas_schema():
    kept = json.loads(JSONEncoder().encode(Dashboard.from_json(DASHBOARD)))
    assert list(lost(DASHBOARD, kept)) == []  # the schema's own classes drop what they do not know


def test_a_key_unknown_to_grafana_is_noticed():
    panel = {**DASHBOARD["panels"][1], "gridPosition": {}}
    kept = json.loads(JSONEncoder().encode(Dashboard.from_json({**DASHBOARD, "panels": [panel]})))
    assert list(lost({"panels": [panel]}, kept)) == ["dashboard.panels[0].gridPosition"]


def test_dashboard_panels_are_unique_and_do_not_overlap():
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= GRID_WIDTH
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not taken & cells, panel["title"]
        taken |= cells


def test_every_panel_asks_the_chosen_machines_and_source():
    for panel in panels():
        for target in (panel, *panel["targets"]):
            assert target["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert 'instance=~"$instance"' in target["expr"], panel["title"]


@pytest.mark.parametrize("what", expressions())
def test_every_metric_that_is_asked_for_exists(labels, what):
    expression = expressions()[what]
    asked = set(re.findall(r"\b(?:ringfeed|process)_\w+|^up\b", expression))
    assert asked, "it asks for nothing"
    assert asked <= set(labels)
    for name, selector in re.findall(r"\b((?:ringfeed|process)_\w+)\{([^}]*)\}", expression):
        assert set(re.findall(r"(\w+)(?:=~|!~|!=|=)\"", selector)) <= labels[name], name


@needs_promtool
def test_promtool_accepts_the_rules_and_each_alert_fires():
    assert promtool("check", "rules", ALERTS)[0] == 0
    code, said = promtool("test", "rules", Path(__file__).with_name("alerts_test.yml"))
    assert code == 0, said


@needs_promtool
def test_promtool_accepts_every_query_of_the_dashboard(tmp_path):
    variables = {"$__rate_interval": "5m", "$__range": "1h"}
    rules = []
    for number, panel in enumerate(panels()):
        for target in panel["targets"]:
            expression = re.sub(r"\$__\w+", lambda match: variables[match[0]], target["expr"])
            rules.append({"record": f"panel:{number}:{target['refId']}", "expr": expression})
    rules_file = tmp_path / "rules.yml"
    rules_file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))  # JSON is YAML
    code, said = promtool("check", "rules", rules_file)
    assert code == 0, said
    assert f"{len(rules)} rules found" in said


@needs_promtool
def test_promtool_accepts_what_the_daemon_shows(exposed):
    code, said = promtool("check", "metrics", text=exposed)
    assert code == 0, said
