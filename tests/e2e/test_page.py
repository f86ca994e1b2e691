"""The page of a run, as a browser shows it."""

import os
import signal
from pathlib import Path

import pytest

from browser import Browser, fetch_browser

HOSTILE = "<img src=x onerror='document.title=1'><script>document.title=1</script>"


@pytest.fixture(scope="module", autouse=True)
def browser_program():
    fetch_browser()


@pytest.fixture
def watch(tmp_path):
    """watch(job): its page in a browser; closed at the end."""
    browsers = []

    def start(job, **options):
        url = job.metrics_url().removesuffix("metrics")
        browsers.append(Browser(tmp_path / f"browser{len(browsers)}", url, **options))
        return browsers[-1]

    yield start
    for browser in browsers:
        browser.__exit__()


@pytest.fixture
def long_run(new_run, tiny):
    """A run that goes on for longer than any test looks at it, and evaluates and saves meanwhile."""
    data = {"eval": [{"path": str(tiny.directory / "valid.jsonl"), "format": "messages"}]}
    train = {"max_steps": 50000, "save_steps": 40, "eval_steps": 40}
    with new_run(run={"name": HOSTILE}, data=data, train=train).start(2) as job:
        job.wait_for(lambda: job.metrics().get("rankwise_checkpoint_last_success_step", 0) >= 40, "a checkpoint")
        yield job


def step_shown(page):
    return int((page.text("#position").split() or ["", "0"])[1].replace(",", "") if page.text("#position") else 0)


def test_shows_all_of_a_run_and_goes_on(watch, long_run):
    page = watch(long_run)
    page.wait_for("document.querySelectorAll('#checkpoints td').length > 0")
    first = step_shown(page)
    assert first >= 40
    page.wait_for(
        f"Number(/step ([0-9,]+)/.exec(document.querySelector('#position').textContent)[1]"
        f".replaceAll(',', '')) > {first}"
    )
    assert page.value("document.querySelectorAll('#loss path, #speed path').length") >= 4
    assert page.value("document.querySelectorAll('#loss circle').length") >= 2
    assert "Loss over the steps: " in page.value("document.querySelector('#loss').getAttribute('aria-label')")
    assert "planned" in page.text("#memory") and "base shard" in page.text("#memory")
    assert page.value("document.querySelectorAll('#by-rank .bar').length") == 2
    assert "gather" in page.text("#phases") and "%" in page.text("#phases")
    assert "max_steps: 50000" in page.text("#configuration")
    assert "eval loss" in page.text("#log")
    assert page.complaints() == []


@pytest.mark.skipif("PAGE_SCREENSHOT" not in os.environ, reason="PAGE_SCREENSHOT=docs/images/page.png: the README's")
def test_makes_the_picture_of_the_readme(watch, new_run, tiny):
    data = {"eval": [{"path": str(tiny.directory / "valid.jsonl"), "format": "messages"}]}
    train = {"max_steps": 600, "save_steps": 20, "eval_steps": 20, "learning_rate": 2e-4}
    run = new_run(run={"name": "sorted words"}, model={"path": "models/tiny"}, data=data, train=train)
    (run.directory / "models").mkdir()
    (run.directory / "models/tiny").symlink_to(tiny.model)
    with run.start(2) as job:
        page = watch(job, width=1000, height=1180)
        page.wait_for("run.step >= 200")
        Path(os.environ["PAGE_SCREENSHOT"]).write_bytes(page.screenshot())


def test_hostile_texts_are_texts(watch, long_run):
    page = watch(long_run)
    page.wait_for("document.querySelector('#position').textContent")
    assert page.text("#name") == HOSTILE
    assert HOSTILE in page.value("document.title")
    assert page.value("document.querySelectorAll('img').length") == 0
    assert page.value("document.querySelectorAll('script').length") == 1


def test_a_narrow_window_needs_no_scrolling_to_the_side(watch, long_run):
    page = watch(long_run, width=360, height=700)
    page.wait_for("document.querySelectorAll('#by-rank .bar').length")
    page.value("document.querySelector('details').open = true")
    assert page.value("document.documentElement.scrollWidth") <= 360
    assert page.value("[...document.querySelectorAll('body *')].every((e) => e.getBoundingClientRect().right <= 361)")


def test_the_keyboard_reaches_everything(watch, long_run):
    page = watch(long_run)
    page.wait_for("document.querySelectorAll('#by-rank .bar').length")
    reached = []
    for _ in range(6):
        page.press("Tab")
        reached.append(page.value("document.activeElement.closest('[id]')?.id || document.activeElement.tagName"))
    assert reached[:5] == ["rank", "by-rank", "checkpoints", "log", "h-configuration"]


def test_hundreds_of_ranks(watch, long_run):
    page = watch(long_run)
    page.wait_for("document.querySelectorAll('#by-rank .bar').length")
    page.value("run.ranks = Array.from({length: 300}, (_, rank) => ({...run.ranks[0], rank})), showMemory(run)")
    assert page.value("document.querySelectorAll('#by-rank .bar').length") == 300
    assert page.value("document.querySelector('#by-rank .scroll').clientHeight") < 300


def test_says_that_a_run_has_finished(watch, new_run):
    run = new_run(train={"max_steps": 50000, "save_steps": 0})
    with run.start(2) as job:
        page = watch(job)
        page.wait_for("document.body.dataset.state === 'training'")
        job.ranks()[0].send(signal.SIGTERM)
        page.wait_for("document.body.dataset.state === 'stopped'")
        job.wait()
        page.wait_for("gone")
        assert page.value("document.body.dataset.state") == "stopped"
        assert "Stopped on request" in page.text("#state")


def test_says_that_the_process_is_gone_and_keeps_what_it_said(watch, new_run):
    with new_run(train={"max_steps": 50000, "save_steps": 0}).start(2) as job:
        page = watch(job)
        page.wait_for("document.querySelector('#position').textContent")
        job.kill_tree()
        page.wait_for("document.body.dataset.state === 'gone'")
        assert "No answer since" in page.text("#state")
        assert "step " in page.text("#position")


def test_says_why_a_run_failed(watch, new_run):
    run = new_run(train={"max_steps": 50000, "save_steps": 300, "logging_steps": 50})
    with run.start(2) as job:
        page = watch(job)
        page.wait_for("document.body.dataset.state === 'training'")
        run.output.rename(run.output.with_name("moved"))
        page.wait_for("document.body.dataset.state === 'failed'")
        assert "checkpoint" in page.text("#state") or "run" in page.text("#state")
