"""The networks: the paper's parameter counts, and what each promise about precision, heads and statistics means."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pd_lightning.networks import SIZES, QNetwork, Student, parameter_count

# The paper's tables; the ten games' actions are 85 in all.
PAPER_COUNTS = {
    "dqn": ({"seaquest": 18}, 1_693_362),
    "net1": ({"seaquest": 18}, 427_874),
    "net2": ({"seaquest": 18}, 113_346),
    "net3": ({"seaquest": 18}, 61_954),
    "multi3": ({"freeway": 3, "pong": 3, "qbert": 6}, 1_882_668),
    "multi10": (
        {
            "beam_rider": 9,
            "breakout": 4,
            "enduro": 9,
            "freeway": 3,
            "ms_pacman": 9,
            "pong": 3,
            "qbert": 6,
            "riverraid": 18,
            "seaquest": 18,
            "space_invaders": 6,
        },
        6_756_721,
    ),
}
GAMES = {"pong": 6, "breakout": 4}


def states(batch=3, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(256, size=(batch, 4, 84, 84), dtype=np.uint8))


def network(size="net3", games=GAMES, layer_norm=False, seed=0):
    torch.manual_seed(seed)
    return QNetwork(games, size, layer_norm)


def centred(net, states, game="pong"):
    """What a network sees of states, as pictures again: float32 [B, 4, 84, 84]."""
    patches = net.centring[game](states).detach().float()
    return patches.view(-1, 4, 4, 4, 21, 21).permute(0, 1, 4, 2, 5, 3).reshape(-1, 4, 84, 84).numpy()


def mean_image(seed=1):
    return torch.from_numpy(np.random.default_rng(seed).uniform(0, 255, size=(84, 84))).float()


def test_every_size_is_in_the_papers_table():
    assert set(PAPER_COUNTS) == set(SIZES)


@pytest.mark.parametrize("size", PAPER_COUNTS)
def test_a_network_has_exactly_the_papers_number_of_parameters(size):
    games, count = PAPER_COUNTS[size]
    assert sum(games.values()) == {"multi3": 12, "multi10": 85}.get(size, 18)
    assert parameter_count(Student(games, size)) == count


def test_layer_norm_adds_no_parameters_and_makes_every_hidden_layer_blind_to_the_scale_of_its_weights():
    plain, normalised = network(), network(layer_norm=True)
    assert parameter_count(plain) == parameter_count(normalised)
    before = normalised(states())["pong"]
    with torch.no_grad():
        for parameter in normalised.trunk.parameters():
            parameter.mul_(8.0)
    torch.testing.assert_close(normalised(states())["pong"], before, rtol=1e-3, atol=1e-5)
    assert (before - plain(states())["pong"]).abs().max() > 1e-3


def test_the_student_is_the_network_without_layer_norm():
    torch.manual_seed(0)
    torch.testing.assert_close(Student(GAMES, "net3")(states()), network()(states()), rtol=0, atol=0)


def test_outputs_are_float32_under_autocast_and_close_to_those_of_full_precision():
    net = network("multi3")
    with torch.autocast("cpu", torch.bfloat16):
        mixed = net(states())
    for game, full in net(states()).items():
        assert mixed[game].dtype == torch.float32
        torch.testing.assert_close(mixed[game], full, rtol=0.1, atol=0.01)
        # The last layer was not rounded: outputs lie between the numbers that bfloat16 has.
        assert (mixed[game] != mixed[game].bfloat16().float()).any()


def test_outputs_are_float32_for_a_network_of_bfloat16():
    net = network("multi3").bfloat16()
    for game, outputs in net(states()).items():
        assert outputs.dtype == torch.float32
        assert outputs.shape == (3, GAMES[game])
        assert (outputs != outputs.bfloat16().float()).any()


def test_centring_subtracts_the_rounded_mean_image_and_divides_by_the_deviation():
    net = network()
    mean = mean_image()
    net.centre("pong", mean, 37.5)
    expected = (states().numpy().astype(np.float32) - np.rint(mean.numpy())) / np.float32(37.5)
    np.testing.assert_allclose(centred(net, states()), expected, rtol=1e-6, atol=1e-5)


def test_in_bfloat16_a_pixel_like_the_mean_is_nothing_and_others_differ_by_no_more_than_rounding():
    net = network()
    net.centre("pong", mean_image(), 4.87)  # Pong's: the mean image is up to 48 of it, where bfloat16 resolves 0.25
    exact = net.centring["pong"](states())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = net.centring["pong"](states()).float()
    assert torch.equal(mixed == 0, exact == 0)
    torch.testing.assert_close(mixed, exact, rtol=2**-7, atol=0)


def test_the_difference_from_the_mean_is_exact_in_bfloat16_too():
    net = network()
    net.centre("pong", mean_image(), 64.0)  # a power of two: then the division is exact as well
    exact = net.centring["pong"](states())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = net.centring["pong"](states())
    assert mixed.dtype == torch.bfloat16
    assert torch.equal(mixed.float(), exact)
    assert torch.equal(net.bfloat16().centring["pong"](states()).float(), exact)


def test_before_a_recording_is_known_states_become_0_to_1():
    np.testing.assert_allclose(centred(network(), states()), states().numpy() / 255, rtol=1e-6)


@pytest.mark.parametrize("size", ["dqn", "net1", "net3", "multi10"])
def test_the_trunk_computes_the_convolutions_of_the_paper(size):
    net = QNetwork({"pong": 6}, size)
    net.centre("pong", mean_image(), 37.5)
    x = torch.from_numpy(centred(net, states()))
    for layer, stride in zip(net.trunk.convolutions, (4, 2, 1), strict=True):
        x = F.relu(F.conv2d(x, layer.weight, layer.bias, stride))  # pyright: ignore[reportArgumentType, reportCallIssue]
    features = F.relu(net.trunk.hidden(x.flatten(1)))
    patches = net.centring["pong"](states())
    torch.testing.assert_close(net.trunk(patches), features, rtol=1e-4, atol=1e-4)


def test_layers_are_normalised_over_channels_and_pixels_whatever_their_order_in_memory():
    net = QNetwork({"pong": 6}, "net2", layer_norm=True)
    patches = net.centring["pong"](states())
    x = patches.contiguous()
    for layer in net.trunk.convolutions:
        x = layer(x)
        flat = x.flatten(1)
        flat = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        x = F.relu(flat.view_as(x))
    features = F.relu(F.layer_norm(net.trunk.hidden(x.flatten(1)), [128]))
    torch.testing.assert_close(net.trunk(patches), features, rtol=1e-4, atol=1e-4)


def test_states_may_lie_anywhere_in_memory():
    net, some = network(), states()
    apart = torch.empty(len(some), 4, 84, 168, dtype=torch.uint8)[..., 1:169:2]
    apart.copy_(some)
    torch.testing.assert_close(net(apart)["pong"], net(some)["pong"])
    odd = torch.empty(some.numel() + 1, dtype=torch.uint8)[1:].view_as(some).copy_(some)
    torch.testing.assert_close(net(odd)["pong"], net(some)["pong"])


def test_each_game_has_statistics_of_its_own():
    net = network()
    before = net(states())
    net.centre("breakout", mean_image(), 50.0)
    after = net(states())
    assert torch.equal(before["pong"], after["pong"])
    assert not torch.allclose(before["breakout"], after["breakout"])


@pytest.mark.parametrize("deviation", [0.0, -1.0, float("nan")])
def test_a_recording_of_one_image_is_refused(deviation):
    with pytest.raises(ValueError, match="all images are equal"):
        network().centre("pong", mean_image(), deviation)


def test_statistics_are_not_trained():
    net = network()
    assert not any("centring" in name for name, _ in net.named_parameters())
    assert {"centring.pong.mean", "centring.pong.deviation"} <= set(net.state_dict())


@pytest.mark.parametrize(
    "states",
    [
        torch.zeros(2, 4, 84, 84),  # as floats
        torch.zeros(2, 4, 84, 84, dtype=torch.int64),
        torch.zeros(2, 84, 84, 4, dtype=torch.uint8),  # channels last
        torch.zeros(4, 84, 84, dtype=torch.uint8),  # no batch
    ],
)
def test_bytes_of_anything_else_are_not_taken_for_states(states):
    with pytest.raises(ValueError, match=r"states are \w+ \[.*\]: give uint8 \[B, 4, 84, 84\]"):
        Student({"pong": 6}, "net3")(states)


def test_several_games_in_one_batch_are_answered_as_each_alone():
    net = network("multi3")
    net.centre("pong", mean_image(), 50.0)
    both = {"breakout": states(2, seed=1), "pong": states(5, seed=2)}  # another order than the network's
    joint = net(both)
    assert list(joint) == ["breakout", "pong"]
    for game, batch in both.items():
        torch.testing.assert_close(joint[game], net({game: batch})[game], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(joint[game], net(batch)[game], rtol=1e-4, atol=1e-6)


def test_heads_of_games_that_a_batch_leaves_out_get_no_gradient():
    net = network("multi3")
    net({"pong": states()})["pong"].square().sum().backward()
    for name, parameter in net.named_parameters():
        if name.startswith("heads.breakout."):
            assert parameter.grad is None
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name


def test_weights_begin_as_wide_as_he_et_al_say_before_a_relu_and_biases_at_zero():
    for name, layer in network("multi3", {"seaquest": 18}).named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            wide = (2 / layer.weight[0].numel()) ** 0.5 * (0.01 if name.endswith("output") else 1)
            assert layer.weight.detach().std().item() == pytest.approx(wide, rel=0.1), name
            assert layer.bias is not None
            assert not layer.bias.any(), name


def test_no_action_starts_as_a_favourite():
    outputs = network("dqn", {"seaquest": 18})(states(8))["seaquest"]
    assert outputs.std() < 0.05  # 100 times less than He's initialisation would give


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_state_dict_carries_everything_including_the_statistics(tmp_path, layer_norm):
    net = network("multi3", layer_norm=layer_norm)
    net.centre("pong", mean_image(), 41.0)
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    other = network("multi3", layer_norm=layer_norm, seed=1)
    assert not torch.equal(other(states())["pong"], net(states())["pong"])
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    for game in GAMES:
        assert torch.equal(other(states())[game], net(states())[game])


def test_an_unknown_size_is_answered_with_those_that_exist():
    with pytest.raises(ValueError, match="unknown size 'net4': choose one of dqn, net1, net2, net3, multi3, multi10"):
        Student(GAMES, "net4")


def test_a_network_without_games_is_refused():
    with pytest.raises(ValueError, match="at least one game"):
        Student({})


def test_a_game_without_actions_is_refused():
    with pytest.raises(ValueError, match="pong has 0 actions"):
        Student({"pong": 0})


def test_states_of_a_game_that_the_network_does_not_know_are_an_error():
    with pytest.raises(KeyError, match="qbert"):
        network()({"qbert": states()})
