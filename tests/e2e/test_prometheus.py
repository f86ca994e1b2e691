"""The metrics page as Prometheus' own programs see it."""

import json
import shutil
import socket
import subprocess
import urllib.parse

import pytest

from program import PATIENCE, ROOT, Process, fetch, wait_until

BINARIES = ROOT / ".deps/prometheus/usr/bin"
CONFIGURATION = """
global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}
scrape_configs: [{{job_name: rankwise, static_configs: [{{targets: ["{target}"]}}]}}]
"""


@pytest.fixture(scope="module")
def prometheus():
    subprocess.run([ROOT / "tools/fetch_deb.sh", "prometheus"], check=True, timeout=300)
    return BINARIES


@pytest.fixture
def training(new_run):
    """A run that goes on for longer than any test looks at it."""
    with new_run(train=dict(max_steps=5000, save_steps=0)).start(2) as job:
        job.wait_for(lambda: job.metrics().get("rankwise_train_steps_total", 0) > 0, "a step")
        yield job


def test_promtool_has_nothing_to_say(prometheus, training):
    checked = subprocess.run(
        [prometheus / "promtool", "check", "metrics"],
        input=fetch(training.metrics_url()),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_health_pages(training):
    base = training.metrics_url().removesuffix("/metrics")
    assert fetch(base + "/healthz") and fetch(base + "/readyz")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_prometheus_scrapes_a_run(prometheus, training, tmp_path):
    configuration = tmp_path / "prometheus.yml"
    configuration.write_text(CONFIGURATION.format(target=urllib.parse.urlparse(training.metrics_url()).netloc))
    address = f"127.0.0.1:{free_port()}"
    with (tmp_path / "prometheus.log").open("wb") as log:
        server = subprocess.Popen(
            [
                prometheus / "prometheus",
                f"--config.file={configuration}",
                f"--web.listen-address={address}",
                f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            ],
            cwd=tmp_path,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    process = Process(server.pid)

    def value_of(query):
        answer = fetch(f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}")
        result = json.loads(answer)["data"]["result"] if answer else []
        return float(result[0]["value"][1]) if result else 0

    try:
        wait_until(lambda: value_of("rankwise_train_steps_total"), "the steps of the run in Prometheus")
        assert value_of('up{job="rankwise"}') == 1
        assert value_of("rankwise_world_size") == 2
        assert value_of('rankwise_memory_bytes{kind="base_shard",rank="0"}') > 0
        wait_until(lambda: value_of("rate(rankwise_train_tokens_total{kind='input'}[1m])"), "a rate of tokens")
    finally:
        process.kill()
        server.wait(PATIENCE)
        shutil.rmtree(tmp_path / "tsdb", ignore_errors=True)
