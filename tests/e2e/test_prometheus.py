"""The metrics page as Prometheus' own programs see it."""

import pytest

from program import fetch, wait_until
from prometheus import Prometheus, promtool


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
