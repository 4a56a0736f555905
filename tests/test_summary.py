"""The table at the end of a run says what was measured, and a dash where nothing was."""

import io
import math

import numpy as np
import pytest
import torch
from rich.console import Console

from pd_lightning.distillation import PolicyDistillation
from pd_lightning.pqn import PQN
from pd_lightning.rollout import Returns
from pd_lightning.summary import results_table


class Data:
    """Teachers that were recorded under the protocol `paper`, without anybody pressing FIRE for them."""

    def __init__(self, returns=None):
        self.returns = returns or {"pong": [19.0, 20.0, 21.0], "freeway": [-3.0]}

    def teacher_returns(self, protocol, fire):
        known = self.returns if (protocol, fire) == ("paper", False) else {}
        return {game: np.array(values, float) for game, values in known.items()}


def returns(game, *values, protocol="paper", fire=False):
    count = len(values)
    return Returns(game, protocol, np.array(values, float), np.full(count, 9), np.arange(count), fire)


def rows(scores, model, data=None, metrics=None, seconds=12.3):
    """Title and caption, and the cells of each game by the names of the columns."""
    table = results_table(scores, model, data or Data(), metrics or {}, seconds)
    lines = zip(*(column.cells for column in table.columns), strict=True)
    heads = [str(column.header) for column in table.columns]
    return f"{table.title}; {table.caption}", {str(cells[0]): dict(zip(heads, cells, strict=True)) for cells in lines}


@pytest.fixture(scope="module")
def student():
    return PolicyDistillation({"pong": 6, "freeway": 3}, size="net1")


def test_each_game_has_its_teacher_its_mean_return_its_interval_and_its_percentage(student):
    scores = {"pong": returns("pong", 17.0, 18.0, 19.0), "freeway": returns("freeway", 1.0, 1.0)}
    metrics = {"val/pong/agreement": torch.tensor(0.91239), "val/freeway/agreement": torch.tensor(math.nan)}
    title, lines = rows(scores, student, metrics=metrics)
    parameters = 4 * 64 * 16 + 16 + 16 * 16 * 32 + 32 + 32 * 9 * 32 + 32 + 1568 * 256 + 256 + 257 * 6 + 257 * 3
    teacher = 4 * 64 * 32 + 32 + 32 * 16 * 64 + 64 + 64 * 9 * 64 + 64 + 3136 * 512 + 512 + 513 * 6 + 513 * 3
    share = f"{100 * parameters / teacher:.1f}%"
    assert title == f"net1, {parameters:,} parameters ({share} of dqn); protocol paper, 12 seconds"
    assert lines["pong"] == {
        "game": "pong",
        "teacher ± 95%": "20.0 ± 2.5",
        "student ± 95%": "18.0 ± 2.5",  # s = 1, t(0.975, 2) = 4.303: 4.303 / sqrt(3) = 2.48
        "episodes": "3",
        "of teacher": "90.0%",
        "agreement": "0.912",
    }
    assert lines["freeway"] == {
        "game": "freeway",
        "teacher ± 95%": "-3.0",  # of one episode no interval
        "student ± 95%": "1.0 ± 0.0",
        "episodes": "2",
        "of teacher": "-",  # of a negative score there is no percentage
        "agreement": "-",
    }


def test_where_no_teacher_was_recorded_under_the_rules_of_a_score_the_table_says_so(student):
    for protocol, said in (("paper", False), ("nature", True)):
        scores = {game: returns(game, 1.0, 2.0, protocol=protocol) for game in ("pong", "freeway")}
        caption = results_table(scores, student, Data(), {}, 1.0).caption
        assert ("no recorded episodes that it alone played" in str(caption)) == said


def test_one_episode_has_no_interval(student):
    line = rows({"pong": returns("pong", -21.0)}, student)[1]["pong"]
    assert (line["student ± 95%"], line["episodes"], line["of teacher"]) == ("-21.0", "1", "-")


def test_a_teacher_recorded_under_other_rules_is_no_yardstick(student):
    title, lines = rows({"pong": returns("pong", 7.0, 9.0, protocol="machado")}, student)
    assert "protocol machado" in title
    assert (lines["pong"]["teacher ± 95%"], lines["pong"]["of teacher"]) == ("-", "-")
    lines = rows({"pong": returns("pong", 7.0, 9.0, fire=True)}, student)[1]
    assert (lines["pong"]["teacher ± 95%"], lines["pong"]["of teacher"]) == ("-", "-")


def test_several_games_end_with_the_geometric_mean_of_their_percentages(student):
    data = Data({"pong": [20.0], "freeway": [25.0]})
    scores = {"pong": returns("pong", 16.0), "freeway": returns("freeway", 5.0)}
    lines = rows(scores, student, data)[1]
    assert list(lines) == ["pong", "freeway", "geometric mean"]
    assert [cell for cell in lines["geometric mean"].values() if cell] == ["geometric mean", "40.0%"]  # of 80 and 20
    assert "geometric mean" not in rows(scores, student)[1]  # of a negative teacher there is no percentage
    assert "geometric mean" not in rows({"pong": scores["pong"]}, student, data)[1]  # freeway was not played
    one = PolicyDistillation({"pong": 6}, size="net1")
    assert list(rows({"pong": scores["pong"]}, one, data)[1]) == ["pong"]


def test_without_rollouts_there_is_still_a_line_for_each_game(student):
    title, lines = rows({}, student, metrics={"val/pong/agreement": torch.tensor(0.5)})
    assert title.endswith("; 12 seconds")  # by no rules
    assert list(lines) == ["pong", "freeway"]
    assert (lines["pong"]["student ± 95%"], lines["pong"]["episodes"]) == ("-", "-")
    assert lines["pong"]["agreement"] == "0.500"


def test_a_teacher_that_learned_here_has_a_line_too():
    title, lines = rows({"pong": returns("pong", 3.0, 5.0)}, PQN({"pong": 6}), data=object())
    assert title.startswith("dqn, 1,687,206 parameters (100.0% of dqn); protocol paper")
    assert (lines["pong"]["teacher ± 95%"], lines["pong"]["agent ± 95%"]) == ("-", "4.0 ± 12.7")


def test_the_table_of_any_game_fits_into_a_terminal_of_eighty_columns(student):
    console = Console(width=80, file=io.StringIO())
    values = [90000.5, 100000.0]
    data, scores = Data({"space_invaders": values}), {"space_invaders": returns("space_invaders", *values)}
    student = PolicyDistillation({"space_invaders": 6}, size="multi10")
    console.print(results_table(scores, student, data, {}, 99999.0))
    text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "…" not in text
    assert all(word in text for word in ("space_invaders", "student ± 95%", "95000 ± 63528", "99999 seconds"))
