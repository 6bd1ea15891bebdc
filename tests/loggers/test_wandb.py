"""wandb logging: offline if needed, one wandb run across resumes, with the complete configuration."""

import csv
import http.server
import importlib.util
import json
import os
import threading

import pytest
import yaml

from lmrecipes.__main__ import main
from lmrecipes.config import catalog
from wandb_files import parts

WANDB = "--trainer.logger=loggers/wandb.yaml"
KEY = "0123456789" * 4


@pytest.fixture
def fit(command, small, tmp_path, monkeypatch):
    """Trains as a process of a user without any wandb setup; returns it and the run directory."""

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)

    def run(*arguments, new=True, **variables):
        more = [*small, WANDB, "--run_dir=run"] if new else []
        return command("fit", *more, *arguments, HOME=str(tmp_path), **variables), tmp_path / "run"

    return run


def rows(run, name):
    with (run / "metrics.csv").open() as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row[name]}


@pytest.mark.slow
def test_without_an_api_key_a_run_is_logged_offline_and_says_how_to_sync_it(fit):
    done, run = fit()
    assert (done.returncode, done.stderr) == (0, "")
    (message,) = [line for line in done.stdout.splitlines() if "wandb" in line]
    assert "offline, as there is no API key" in message
    assert message.endswith("wandb sync run/wandb/offline-run-*")
    (part,) = parts(run)
    assert part.exit_code == 0
    # Same steps and metrics as the CSV log.
    for name in ("train/loss", "val/loss"):
        assert part.metric(name) == pytest.approx(rows(run, name))
    assert set(part.metric("train/loss")) == set(range(1, 13))


@pytest.mark.slow
def test_without_a_server_a_run_is_logged_offline(fit):
    done, run = fit(WANDB_API_KEY=KEY, WANDB_BASE_URL="http://127.0.0.1:9")
    assert (done.returncode, done.stderr) == (0, "")
    assert "offline, as http://127.0.0.1:9 cannot be reached; upload the run later with: wandb sync run/" in done.stdout
    assert len(parts(run)[0].metric("train/loss")) == 12


@pytest.mark.slow
def test_a_rejected_key_leaves_a_run_offline(fit):
    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(401)

        def do_POST(self):
            self.do_GET()

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        done, run = fit(WANDB_API_KEY=KEY, WANDB_BASE_URL=f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
    assert (done.returncode, done.stderr) == (0, "")
    assert "wandb: offline, as the server refuses" in done.stdout
    assert len(parts(run)[0].metric("train/loss")) == 12


@pytest.mark.slow
def test_a_malformed_key_leaves_a_run_offline(fit):
    done, _ = fit("--trainer.max_steps=3", WANDB_API_KEY="short")
    assert (done.returncode, done.stderr) == (0, "")
    assert "wandb: offline, as the API key cannot be used" in done.stdout


@pytest.mark.slow
def test_the_whole_configuration_is_logged_once_and_is_the_saved_one(fit):
    done, run = fit("--trainer.gradient_clip_val=null", "--model.config.tie_projections=[false,true,true]")
    assert done.returncode == 0, done.stderr
    (part,) = parts(run)
    (config,) = part.configs
    assert config == yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["init_args"]["config"]["tie_projections"] == [False, True, True]


@pytest.mark.slow
def test_a_resumed_run_is_the_same_wandb_run_and_logs_no_step_twice(fit):
    done, run = fit()
    assert done.returncode == 0, done.stderr
    onward, _ = fit("--resume=run", "--trainer.max_steps=20", new=False)
    assert onward.returncode == 0, onward.stderr
    first, second = parts(run)
    assert first.id == second.id == json.loads((run / "wandb.json").read_text())["id"]
    assert set(second.metric("train/loss")) == set(range(13, 21))
    assert second.configs[-1]["trainer"]["max_steps"] == 20


@pytest.mark.slow
def test_two_new_runs_are_two_wandb_runs(fit, tmp_path):
    assert fit("--trainer.max_steps=3")[0].returncode == 0
    assert fit("--trainer.max_steps=3", "--run_dir=other")[0].returncode == 0
    assert parts(tmp_path / "run")[0].id != parts(tmp_path / "other")[0].id


@pytest.mark.slow
def test_the_run_id_of_a_sweep_agent_has_priority(fit):
    done, run = fit("--trainer.max_steps=3", WANDB_RUN_ID="given1", WANDB_SWEEP_ID="sweep1")
    assert done.returncode == 0, done.stderr
    # A requeued job has no agent and continues the agent's run.
    onward, _ = fit("--resume=run", "--trainer.max_steps=6", new=False)
    assert onward.returncode == 0, onward.stderr
    assert [part.id for part in parts(run)] == ["given1", "given1"]


@pytest.mark.slow
def test_only_the_first_rank_logs(fit):
    done, run = fit("--trainer.strategy=ddp", "--trainer.devices=2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wandb: offline") == 1
    (part,) = parts(run)
    assert part.metric("val/loss") == pytest.approx(rows(run, "val/loss"))


@pytest.mark.slow
def test_project_and_name_can_be_set(fit):
    done, run = fit("--trainer.max_steps=3", "--trainer.logger.project=mine", "--trainer.logger.tags=[a,b]")
    assert done.returncode == 0, done.stderr
    assert parts(run)[0].project == "mine"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_missing_package_is_named(name, small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda package, *more: None if package == name else find_spec(package, *more)
    )
    assert main(["fit", *small, f"--trainer.logger=loggers/{name}.yaml", "--run_dir=run"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f'pip install "lmrecipes[{name}]"' in error


def test_presets_are_found_by_name():
    assert set(catalog.preset_paths("loggers")) == {"wandb", "tensorboard"}
    with pytest.raises(ValueError, match="no logger preset 'wandd"):
        catalog.find_preset("loggers/wandd.yaml", "loggers")
