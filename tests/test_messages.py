"""What third parties say and a user can do nothing about is not shown."""

import importlib
import logging

import pytest
from lightning_fabric.accelerators.cuda import _check_cuda_matmul_precision
from lightning_utilities.core.rank_zero import rank_zero_info
from pytorch_lightning.accelerators import cuda

from pd_lightning.messages import quieten


@pytest.fixture
def said(monkeypatch):
    """What Lightning's loggers let through, after `quieten`."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning.utilities.rank_zero", cuda.__name__)]
    records = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: records.append(record.getMessage())
    for logger in loggers:
        logger.addHandler(handler)
        monkeypatch.setattr(logger, "filters", [])
        monkeypatch.setattr(logger, "level", logging.INFO)
    quieten()
    yield records
    for logger in loggers:
        logger.removeHandler(handler)


def test_nobody_is_advised_to_round_q_values_for_tensor_cores_and_other_news_are_shown(said, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "a GPU")
    monkeypatch.setattr("lightning_fabric.accelerators.cuda._is_ampere_or_later", lambda device: True)
    _check_cuda_matmul_precision("cuda:0")
    cuda._log.info("LOCAL_RANK: 0 - CUDA_VISIBLE_DEVICES: [0]")
    rank_zero_info("logs: here")
    assert said == ["logs: here"]


@pytest.mark.parametrize(("module", "words", "said"), [
    ("reproduce", ["losses", "--games", "pong"], "did you mean '[pong]'?"),
    ("score", ["--json", "teacher.safetensors"], "Got value: teacher.safetensors; give true or false"),
    ("recording", ["--game", "pong", "--hours", "long"], 'key "hours": Expected a <class \'float\'>. Got value: long'),
    ("report", ["--tests", "3", "runs"], 'key "tests"'),
    ("export", ["--episodes", "3"], "player"),
    ("film", ["a.ckpt", "--output", "a.gif", "--seconds", "long"], 'key "seconds"'),
    ("streaming", ["order"], "order.root"),
])  # fmt: skip
def test_a_slip_in_the_options_of_a_command_is_one_line_that_names_its_help(monkeypatch, capsys, module, words, said):
    monkeypatch.setattr("sys.argv", [module, *words])
    name = f"pd_lightning.{module}"
    command = importlib.import_module(name if module in ("film", "score") else f"{name}.__main__")
    with pytest.raises(SystemExit) as stopped:
        command.main()
    err = capsys.readouterr().err
    assert stopped.value.code == 2
    assert err.count("\n") == 1
    assert said in err
    assert err.endswith(f"options: python -m {name} --help\n")
