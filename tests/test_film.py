"""A film shows the game that was played: as many pictures as steps, the same screen, files that play elsewhere."""

import io
import os

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from conftest import quiet_trainer, short_play
from imageio_ffmpeg import count_frames_and_secs
from PIL import Image
from pytorch_lightning.loggers import CSVLogger

from pd_lightning.atari import PROTOCOLS, Protocol
from pd_lightning.callbacks import Film, filming
from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.distillation import PolicyDistillation
from pd_lightning.episodes import moments
from pd_lightning.film import CAPTION, STEPS_PER_SECOND, caption, film, gif, main, side_by_side, write_mp4
from pd_lightning.recording import record_shard
from pd_lightning.teacher import load_teacher

SHORT = Protocol("short", frame_limit=600)  # 150 steps; Pong serves after some 60


@pytest.fixture(scope="module", autouse=True)
def _short():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, "short", SHORT)
        yield


def player(states):
    """Moves up and down, depending on the picture alone."""
    up = states[:, -1].long().sum((1, 2)) % 3 == 0
    return torch.where(up[:, None], torch.tensor([0.0, 0, 1, 0, 0, 0]), torch.tensor([0.0, 0, 0, 1, 0, 0]))


@pytest.fixture(scope="module")
def played():
    """The episode as it was played: states, rewards."""
    steps = list(moments(player, "pong", [5], SHORT, parallel=1))
    return np.concatenate([s.states for s in steps]), np.concatenate([s.rewards for s in steps])


@pytest.fixture(scope="module")
def pictures():
    return np.stack([*film(player, "pong", 5, protocol="short", title="student")])


def gray(pictures):
    """Colour pictures [n, 232, 160, 3] as a state sees them: the screen below the caption, gray, 84x84."""
    screens = (Image.fromarray(picture[CAPTION:]).convert("L") for picture in pictures)
    return np.stack([np.asarray(screen.resize((84, 84), Image.Resampling.BOX), np.float32) for screen in screens])


def test_a_film_has_one_picture_for_each_step_and_a_last_one_for_the_final_return(pictures, played):
    states, _ = played
    assert pictures.shape == (len(states) + 1, 210 + CAPTION, 160, 3)
    assert pictures.dtype == np.uint8


def test_a_film_may_be_cut_short(pictures):
    beginning = [*film(player, "pong", 5, protocol="short", steps=20, title="student")]
    np.testing.assert_array_equal(beginning, pictures[:20])


def test_every_picture_is_of_the_very_state_that_was_played(pictures, played):
    states, _ = played
    seen, shown = states[:, -1].astype(np.float32), gray(pictures[:-1])
    difference = np.abs(seen[:, None, ::2, ::2] - shown[None, :, ::2, ::2]).mean(
        (2, 3)
    )  # every state with every picture
    assert np.diag(difference).max() < 2  # grey levels, out of 255: colours become gray in two ways
    moving = np.flatnonzero((seen[1:] != seen[:-1]).any((1, 2))) + 1
    for step in moving[moving > 70]:  # the ball is there
        assert difference[step].argmin() == step


def test_the_pictures_move(pictures):
    screens = pictures[:, CAPTION:]
    assert (screens[1:-1] != screens[:-2]).any((1, 2, 3)).mean() > 0.9
    np.testing.assert_array_equal(screens[-1], screens[-2])  # the game is over: only the return is new


def test_the_return_is_counted_in_the_caption(pictures, played):
    _, rewards = played
    assert rewards.sum() < 0
    before = int(np.flatnonzero(rewards)[0])  # the reward follows this step, so the next picture knows it
    np.testing.assert_array_equal(pictures[before], caption(pictures[before][CAPTION:], "student"))
    np.testing.assert_array_equal(pictures[before + 1], caption(pictures[before + 1][CAPTION:], "student -1"))
    final = f"student {rewards.sum():+.0f}"
    np.testing.assert_array_equal(pictures[-1], caption(pictures[-1][CAPTION:], final))


def test_a_caption_leaves_the_picture_as_it_is_and_shows_its_text():
    screen = np.random.default_rng(0).integers(256, size=(210, 160, 3), dtype=np.uint8)
    shown = caption(screen, "pong +3")
    np.testing.assert_array_equal(shown[CAPTION:], screen)
    assert len(np.unique(shown[:CAPTION].reshape(-1, 3), axis=0)) > 1
    assert (caption(screen, "pong +4")[:CAPTION] != shown[:CAPTION]).any()


def test_an_mp4_is_read_again_by_others_in_real_time_and_doubled(tmp_path, pictures):
    path = tmp_path / "pong.mp4"
    write_mp4(path, pictures[:40])
    frames = iio.imread(path, plugin="FFMPEG")
    assert frames.shape == (40, 2 * (210 + CAPTION), 2 * 160, 3)
    assert iio.immeta(path, plugin="FFMPEG")["fps"] == STEPS_PER_SECOND == 15
    shrunk = frames[:, ::2, ::2].astype(float)
    assert np.abs(shrunk - pictures[:40]).mean() < 6  # compressed, but the same pictures
    assert [file.name for file in tmp_path.iterdir()] == ["pong.mp4"]  # nothing half-written beside it


def test_a_film_of_which_the_end_is_missing_is_no_film(tmp_path, pictures, monkeypatch):
    """As ffmpeg leaves it on a full disk, without a word of it to whoever started it."""
    film, whole = tmp_path / "film.mp4", count_frames_and_secs
    film.write_bytes(b"the film before")

    def cut(part):
        os.truncate(part, 2000)
        return whole(part)

    monkeypatch.setattr("pd_lightning.film.count_frames_and_secs", cut)
    with pytest.raises(
        OSError, match=r"ffmpeg did not write the film \(it is not whole; is the disk full\?\): .*film\.mp4"
    ):
        write_mp4(film, pictures)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("film.mp4", b"the film before")]


def test_a_film_is_written_while_it_is_played(tmp_path, pictures):
    asked = []

    def played():
        for number, picture in enumerate(pictures[:40]):
            asked.append(number)
            yield picture

    both = side_by_side([played(), pictures[:40]])
    next(both)
    assert asked == [0]
    write_mp4(tmp_path / "both.mp4", both)
    assert iio.improps(tmp_path / "both.mp4", plugin="FFMPEG").shape[1:] == (2 * (210 + CAPTION), 640, 3)
    assert len(asked) == 40


def test_a_gif_is_a_gif_in_real_time(pictures):
    data = gif(pictures[:41])
    assert data[:6] == b"GIF89a"
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (160, 210 + CAPTION)
        assert image.info["loop"] == 0
        length = 0
        for frame in range(getattr(image, "n_frames", 1)):  # equal neighbours are one picture that stays longer
            image.seek(frame)
            length += image.info["duration"]
    assert length / 1000 == pytest.approx(41 / STEPS_PER_SECOND, rel=0.05)


def test_films_side_by_side_are_as_long_as_the_longest_and_the_others_stop_at_their_last_picture(pictures):
    both = np.stack([*side_by_side([iter(pictures[:30]), iter(pictures[:50])])])
    assert both.shape == (50, 210 + CAPTION, 320, 3)
    np.testing.assert_array_equal(both[:30, :, :160], pictures[:30])
    np.testing.assert_array_equal(both[:, :, 160:], pictures[:50])
    for picture in both[30:, :, :160]:
        np.testing.assert_array_equal(picture, pictures[29])


def test_where_somebody_presses_fire_for_the_player_the_film_shows_that_too():
    still = lambda states: torch.eye(4)[0].expand(len(states), -1)  # noqa: E731
    shown = [*film(still, "breakout", 0, protocol="short", fire=True, steps=120)]
    states = np.concatenate(
        [
            m.states
            for m, _ in zip(moments(still, "breakout", [0], SHORT, parallel=1, fire=True), range(120), strict=False)
        ]
    )
    assert np.abs(states[:, -1].astype(float) - gray(shown)).mean((1, 2)).max() < 3


@pytest.mark.parametrize("fire", [True, False])
def test_a_student_is_filmed_with_fire_as_its_teacher_was_recorded(teachers, tmp_path, monkeypatch, fire):
    header = short_play("breakout", teachers["breakout"], fire=fire, frame_limit=80, steps_goal=1)
    record_shard(load_teacher(teachers["breakout"]), tmp_path / "breakout" / "0000.h5", header, lambda count: None)
    filmed = []
    monkeypatch.setattr(filming, "film", lambda *given, **rules: filmed.append(rules["fire"]) or [])
    monkeypatch.setattr(filming, "write_mp4", lambda path, pictures: None)
    data = TeacherDatasets(str(tmp_path), ["breakout"], batch_size=20, threads=1, validation=0)
    trainer = quiet_trainer(max_steps=1, logger=CSVLogger(tmp_path), callbacks=[Film()])
    trainer.fit(PolicyDistillation(data.actions, "net3", warmup=0), data)
    assert filmed == [fire]


def test_the_command_films_players_side_by_side(teachers, tmp_path, monkeypatch, capsys):
    path = str(teachers["pong"])
    monkeypatch.setattr("sys.argv", ["film", path, path, "--output=new/both.gif", "--seconds=2", "--protocol=short"])
    assert main() == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["both.gif"]
    with Image.open(tmp_path / "new/both.gif") as image:
        assert image.size == (320, 210 + CAPTION)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["{teacher}", "--output=film.avi"], "ends in .gif or .mp4"),
        (["{teacher}", "--output=film.gif", "--game=breakout"], "game is 'pong', asked for was 'breakout'"),
        (["{teacher}", "--output=film.gif", "--seconds=0"], "--seconds is 0.0"),
        (["{teacher}", "--output=film.gif", "--seconds=1e9"], "--seconds is 1000000000.0"),
        (["{teacher}", "--output=film.gif", "--seed=9999999999"], "--seed 9999999999: choose"),
        (["{teacher}", "{other}", "--output=film.gif"], "players play pong, breakout: choose players of one game"),
        (["no_such.ckpt", "--output=film.gif"], "no_such.ckpt: there is no such file"),
        (["{teacher}", "--output=/proc/none/film.gif"], "/proc/none"),
    ],
)
def test_a_film_that_cannot_be_made_is_one_line_and_no_file(words, reason, teachers, tmp_path, monkeypatch, capsys):
    files = {"teacher": teachers["pong"], "other": teachers["breakout"]}
    monkeypatch.setattr("sys.argv", ["film", *(word.format(**files) for word in words)])
    assert main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert reason in line
    assert not list(tmp_path.iterdir())
