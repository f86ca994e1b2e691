"""The metrics page as Prometheus' own programs see it."""

import re
import shutil
import subprocess
import urllib.request

import pytest

from program import ROOT, fetch, parse_metrics, wait_until
from prometheus import Prometheus, Pushgateway, neighbouring_ports, promtool


@pytest.fixture
def training(new_run):
    """A run that goes on for longer than any test looks at it."""
    with new_run(train=dict(max_steps=5000, save_steps=0)).start(2) as job:
        job.wait_for(lambda: job.metrics().get("rankwise_train_steps_total", 0) > 0, "a step")
        yield job


def test_promtool_has_nothing_to_say(training):
    checked = promtool("check", "metrics", input=fetch(training.metrics_url()))
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_health_pages(training):
    base = training.metrics_url().removesuffix("/metrics")
    assert fetch(base + "/healthz") and fetch(base + "/readyz")


def test_prometheus_scrapes_a_run(training, tmp_path):
    with Prometheus(tmp_path / "prometheus", training.metrics_url()) as server:
        wait_until(lambda: any(server.query("rankwise_train_steps_total")), "the steps of the run in Prometheus")
        assert server.query('up{job="rankwise"}') == [1]
        assert server.query("rankwise_world_size") == [2]
        assert server.query('rankwise_memory_bytes{kind="base_shard",rank="0"}')[0] > 0
        wait_until(lambda: any(server.query("rate(rankwise_train_tokens_total{kind='input'}[1m])")), "a rate of tokens")


def ranks_of(series):
    return set(re.findall(r'rank="(\d+)"', " ".join(series)))


def test_the_page_of_a_host_has_all_its_ranks(training):
    phases = 'rankwise_train_phase_seconds_total{phase="forward",rank="%d"}'
    training.wait_for(lambda: all(training.metrics().get(phases % rank, 0) > 0 for rank in (0, 1)), "both at work")
    series = training.metrics()
    for name in {name.partition("{")[0] for name in series if "rank=" in name}:
        assert ranks_of(s for s in series if s.partition("{")[0] == name) == {"0", "1"}, name
    assert series['rankwise_memory_bytes{kind="base_shard",rank="1"}'] > 0
    places = [dict(re.findall(r'(\w+)="(.*?)"', s)) for s in series if s.startswith("rankwise_rank_info")]
    assert [(place["rank"], place["local_rank"]) for place in places] == [("0", "0"), ("1", "1")]
    assert len({place["node"] for place in places}) == 1 and places[0]["node"]


def test_every_rank_may_have_a_page_of_its_own(new_run):
    first, second = neighbouring_ports()
    run = new_run(
        train=dict(max_steps=5000, save_steps=0),
        monitoring=dict(listen=f"127.0.0.1:{first}", endpoints="rank", required=True),
    )
    with run.start(2) as job:
        url = f"http://127.0.0.1:{second}/"
        job.wait_for(lambda: "rankwise_train_phase" in fetch(url + "metrics"), "the page of rank 1")
        assert ranks_of(parse_metrics(fetch(url + "metrics"))) == {"1"}
        assert "rankwise_train_loss" not in fetch(url + "metrics")
        assert ranks_of(job.metrics()) == {"0"}


def test_a_last_page_that_cannot_be_written_is_no_failure(new_run):
    run = new_run(train=dict(max_steps=3, save_steps=0), monitoring=dict(listen=None))
    (run.output / "metrics.prom/in the way").mkdir(parents=True)
    output = run.train(2)
    assert re.search(r"warning.*metrics\.prom.*; the adapter is complete", output), output
    assert re.search(r"finished behind step 3: \d+ tokens in .* tok/s, at most .* on rank 0; adapter: .*final", output)
    assert (run.output / "final/adapter_model.safetensors").is_file()


def test_what_a_short_run_leaves(tiny, new_run, tmp_path):
    evaluated = {"eval": [{"path": str(tiny.directory / "valid.jsonl"), "format": "messages"}]}
    run = new_run(train=dict(max_steps=3, save_steps=0), data=evaluated)
    run.train(2)
    left = (run.output / "metrics.prom").read_text()
    checked = promtool("check", "metrics", input=left)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    series = parse_metrics(left)
    assert series["rankwise_train_steps_total"] == 3 and series["rankwise_train_active"] == 0
    assert series["rankwise_run_duration_seconds"] > 0
    assert series["rankwise_run_last_success_timestamp_seconds"] > 1.7e9
    assert ranks_of(series) == {"0", "1"}
    for rank in (0, 1):  # what comes behind the last step too
        for phase in ("eval", "checkpoint"):
            assert series[f'rankwise_train_phase_seconds_total{{phase="{phase}",rank="{rank}"}}'] > 0

    with Pushgateway(tmp_path / "gateway") as gateway:  # as docs/operations.md has it
        address = f"http://{gateway.address}"
        wait_until(lambda: fetch(f"{address}/-/ready"), "the gateway")
        command = re.search(r"curl --data-binary @\S+", (ROOT / "docs/operations.md").read_text())[0].split()[:2]
        url = f"{address}/metrics/job/rankwise/run/demo"
        if shutil.which("curl"):
            subprocess.run([*command, f"@{run.output}/metrics.prom", url], check=True, timeout=60)
        else:
            urllib.request.urlopen(urllib.request.Request(url, data=left.encode()), timeout=60).close()
        pushed = fetch(f"{address}/metrics")
    assert re.search(r'rankwise_train_steps_total\{.*job="rankwise",run="demo"\} 3\n', pushed), pushed
