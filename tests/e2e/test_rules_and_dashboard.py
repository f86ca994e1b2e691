"""Rules and dashboard beside a real run, as a real Prometheus scraped it."""

import json
import math
import re

import pytest
import yaml

from program import ROOT, wait_until
from prometheus import Prometheus, promtool
from runs import Run

RULES = ROOT / "monitoring/prometheus/rules.yml"
RULES_TEST = RULES.with_name("rules_test.yml")
DASHBOARD = json.loads((ROOT / "monitoring/grafana/rankwise.json").read_text())
ALL_RULES = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
RECORDED = [rule["record"] for rule in ALL_RULES if "record" in rule]
ALERTS = {rule["alert"]: rule for rule in ALL_RULES if "alert" in rule}
VARIABLES = DASHBOARD["templating"]["list"]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = {f"{panel['title']}, {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]}
EXPRESSIONS = [rule["expr"] for rule in ALL_RULES] + list(QUERIES.values())
METRIC = r"(?:[a-z_]+:)?rankwise_\w+(?::\w+)?"


@pytest.fixture(scope="module")
def watched(tiny, tmp_path_factory):
    """(job, server): a run on two ranks that evaluates and saves all the time, and a Prometheus that scrapes it."""
    directory = tmp_path_factory.mktemp("watched")
    settings = tiny.settings(
        data=dict(eval=[{"path": str(tiny.directory / "valid.jsonl"), "format": "messages"}]),
        train=dict(max_steps=100_000, eval_steps=5, save_steps=5),
    )
    with Run(directory / "run", settings).start(2) as job:
        with Prometheus(directory / "prometheus", job.metrics_url(), [RULES]) as server:
            job.wait_for(lambda: any(server.query("rankwise_train_steps_total > 10")), "steps in Prometheus")
            yield job, server


def without_variables(expression, server):
    """As Grafana does: a variable becomes its values, of which label_values(SELECTOR, LABEL) speaks."""
    for variable in VARIABLES[1:]:
        selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]).groups()
        if f"${variable['name']}" in expression:
            values = server.get(f"label/{label}/values", **{"match[]": without_variables(selector, server)})
            assert values, f"no value for ${variable['name']}"
            expression = expression.replace(f"${variable['name']}", "|".join(values))
    return expression.replace("$__rate_interval", "1m")


def wait_for_numbers(server, expression):
    wait_until(
        lambda: any(not math.isnan(value) for value in server.query(expression)), f"a number of {expression}", 60
    )


def test_promtool_passes_the_rules():
    checked = promtool("check", "rules", RULES)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = promtool("test", "rules", RULES_TEST)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_is_seen_firing_and_not_firing():
    cases = [
        case for test in yaml.safe_load(RULES_TEST.read_text())["tests"] for case in test.get("alert_rule_test", [])
    ]
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == set(ALERTS)
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_is_complete(name):
    alert = ALERTS[name]
    assert re.fullmatch(r"Rankwise([A-Z][a-z]+)+", name) and alert["for"]
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    file, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / file).read_text(), re.MULTILINE)
    assert anchor in [heading.lower().replace(" ", "-") for heading in headings]


def test_every_metric_exists(watched):
    job, _ = watched
    exported = {re.split(r"[ {]", series)[0] for series in job.metrics()}
    assert {name for text in EXPRESSIONS for name in re.findall(METRIC, text)} <= exported | set(RECORDED)


def test_rules_evaluate_and_select_what_is_there(watched):
    _, server = watched
    for record in RECORDED:
        wait_for_numbers(server, record)
    for rule in ALL_RULES:  # a label that nobody has would make an alert silent for ever
        for selector in re.findall(METRIC + r"(?:{.*?})?", rule["expr"]):
            wait_for_numbers(server, selector)
    groups = wait_until(lambda: server.get("rules"), "the rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len(ALL_RULES)
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_of_the_dashboard_has_data(watched, query):
    _, server = watched
    wait_for_numbers(server, without_variables(QUERIES[query], server))


def test_the_dashboard_can_be_imported_anywhere():
    assert DASHBOARD["id"] is None and DASHBOARD["uid"] and DASHBOARD["schemaVersion"]
    assert VARIABLES[0]["type"] == "datasource" and VARIABLES[0]["query"] == "prometheus"
    sources = [holder["datasource"] for holder in VARIABLES[1:] + PANELS]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in PANELS:
        assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
    for expression in QUERIES.values():
        for labels in re.findall(METRIC + r"({.*?})?", expression):
            assert 'job=~"$job"' in labels and 'instance=~"$instance"' in labels, expression


def test_a_run_that_was_killed_is_reported(watched):
    """Last: it ends the run."""
    job, server = watched
    assert server.query('ALERTS{alertname="RankwiseTargetDown"}') == []
    job.kill_tree()
    wait_until(
        lambda: server.query('ALERTS{alertname="RankwiseTargetDown", alertstate="pending"}') == [1], "the alert", 60
    )
