"""Parameter groups, Adam as published for BERT, and ELECTRA's schedules."""

import pytest
import torch
from torch import nn

from lmrecipes.optim import LAMB, BertAdam, GroupSettings, Polynomial, build_optimizer, parameter_groups
from lmrecipes.optim.schedules import StepSchedule


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def by_name(module, optimizer):
    names = {id(p): name for name, p in module.named_parameters()}
    return {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}


def test_norms_and_biases_have_no_weight_decay_and_optionally_no_trust_ratio():
    module = network()
    make = lambda params: LAMB(params, lr=0.1, weight_decay=0.01)  # noqa: E731
    for settings, trust in ((GroupSettings(), True), (GroupSettings(trust_norms_and_biases=False), False)):
        groups = by_name(module, build_optimizer(make, parameter_groups(module, settings), fused=True))
        assert {name for name, group in groups.items() if group["weight_decay"]} == {"0.weight", "2.weight"}
        assert groups["1.weight"]["trust_ratio"] is trust
        assert groups["0.weight"]["trust_ratio"] is True
    with_all = GroupSettings(decay_norms_and_biases=True)
    groups = by_name(module, build_optimizer(make, parameter_groups(module, with_all), fused=True))
    assert all(group["weight_decay"] == 0.01 for group in groups.values())


def test_lamb_updates_excluded_parameters_like_adam():
    module = network()
    bias = module[0].bias
    with torch.no_grad():
        bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    optimizer = build_optimizer(
        lambda params: LAMB(params, lr=0.1, weight_decay=0.5),
        parameter_groups(module, GroupSettings(trust_norms_and_biases=False)),
        fused=True,
    )
    before = bias.detach().clone()
    for p in module.parameters():
        p.grad = torch.full_like(p, 2.0)
    optimizer.step()
    # m = 0.1 g and v = 0.001 g^2: a step of lr * 0.2 / sqrt(0.004), whatever the norms.
    torch.testing.assert_close(before - bias, torch.full((4,), 0.1 * 0.2 / 0.004**0.5))


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, BertAdam])
def test_layer_decay_lowers_rates_and_the_schedule_keeps_the_ratios(optimizer):
    module = network()
    settings = GroupSettings(layer_decay=0.8)
    groups = parameter_groups(module, settings, lambda name: {"0": 0, "1": 1, "2": 3}[name.split(".")[0]])
    built = build_optimizer(lambda params: optimizer(params, lr=0.1), groups, fused=True)
    # The highest rate comes first, because it is the one that is logged.
    assert built.param_groups[0]["lr"] == pytest.approx(0.1)
    rates = {name: group["lr"] for name, group in by_name(module, built).items()}
    assert rates["2.weight"] == rates["2.bias"] == pytest.approx(0.1)
    assert rates["1.weight"] == pytest.approx(0.1 * 0.8**2)
    assert rates["0.bias"] == pytest.approx(0.1 * 0.8**3)
    schedule = StepSchedule(built, Polynomial(), max_steps=10)
    built.step()
    schedule.step()
    assert by_name(module, built)["0.bias"]["lr"] == pytest.approx(0.9 * 0.1 * 0.8**3)


def test_adam_without_bias_correction_is_the_published_update():
    torch.manual_seed(0)
    w = torch.randn(5)
    p = nn.Parameter(w.clone())
    optimizer = BertAdam([p], lr=0.01, weight_decay=0.1)
    m = v = torch.zeros(5)
    for _ in range(4):
        p.grad = torch.randn(5)
        m, v = 0.9 * m + 0.1 * p.grad, 0.999 * v + 0.001 * p.grad**2
        w = w - 0.01 * (m / (v.sqrt() + 1e-6) + 0.1 * w)
        optimizer.step()
    torch.testing.assert_close(p.data, w)


def test_nvidias_schedule_decays_by_the_square_root_after_warm_up():
    schedule = Polynomial(warmup_steps=200, power=0.5)
    assert schedule.lr(99, 0.004, 933) == pytest.approx(0.002)
    assert schedule.lr(200, 0.004, 933) == pytest.approx(0.004)
    assert schedule.lr(200 + 550, 0.004, 933) == pytest.approx(0.004 * (1 - 550 / 733) ** 0.5)
    assert schedule.lr(933, 0.004, 933) == 0


def test_googles_schedule_decays_from_the_first_step():
    schedule = Polynomial(warmup_steps=100, falls="from_start")
    assert schedule.lr(49, 1.0, 1000) == pytest.approx(0.5 * (1 - 0.049))
    assert schedule.lr(100, 1.0, 1000) == pytest.approx(0.9)
    assert schedule.lr(999, 1.0, 1000) == pytest.approx(0.001)


def test_warm_up_can_be_a_share_of_training():
    assert Polynomial(warmup_share=0.1).lr(4, 1.0, 100) == pytest.approx(0.5)
    assert Polynomial(warmup_share=0.1).lr(55, 1.0, 100) == pytest.approx(0.5)
    with pytest.raises(ValueError, match=r"warmup_steps 5 and warmup_share 0.1; set one of them to 0"):
        Polynomial(warmup_steps=5, warmup_share=0.1)
    with pytest.raises(ValueError, match=r"warmup_share is 1.5; it must be at least 0 and below 1"):
        Polynomial(warmup_share=1.5)


def test_a_layer_decay_above_one_is_rejected():
    with pytest.raises(ValueError, match=r"layer_decay is 1.2"):
        GroupSettings(layer_decay=1.2)
