"""LAMB, the schedules and the scheduler follow the publications."""

import math

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from lmrecipes.optim import (
    LAMB,
    Constant,
    Cosine,
    InverseSquareRoot,
    Linear,
    StepSchedule,
    WarmupAnnealing,
    build_optimizer,
)


def naive_lamb(w, m, v, g, lr, b1, b2, eps, decay):
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * g * g
    u = m / (v.sqrt() + eps) + decay * w
    weight, update = min(w.norm().item(), 10), u.norm().item()
    trust = weight / update if weight and update else 1
    return w - lr * trust * u, m, v


def test_lamb_is_the_published_update():
    torch.manual_seed(0)
    weights = [torch.randn(4, 5), torch.zeros(3), torch.randn(7) * 30]
    params = [torch.nn.Parameter(w.clone()) for w in weights]
    optimizer = LAMB(params, lr=0.02, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.01)
    state = [(w, torch.zeros_like(w), torch.zeros_like(w)) for w in weights]
    for _ in range(5):
        grads = [torch.randn_like(w) for w in weights]
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        optimizer.step()
        state = [naive_lamb(*s, g, 0.02, 0.8, 0.9, 1e-6, 0.01) for s, g in zip(state, grads, strict=True)]
    for p, (w, _, _) in zip(params, state, strict=True):
        torch.testing.assert_close(p.data, w)


def test_rates_at_the_ends_of_each_phase():
    cosine = Cosine(warmup_steps=10, min_lr=0.1)
    assert cosine.lr(0, 1.0, 110) == pytest.approx(0.1)
    assert cosine.lr(9, 1.0, 110) == pytest.approx(1.0)
    assert cosine.lr(10, 1.0, 110) == pytest.approx(1.0)
    assert cosine.lr(60, 1.0, 110) == pytest.approx(0.55)
    assert cosine.lr(110, 1.0, 110) == pytest.approx(0.1)
    assert Cosine().lr(25, 1.0, 100) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert Linear(min_lr=0.2).lr(50, 1.0, 100) == pytest.approx(0.6)
    assert Constant(warmup_steps=4).lr(1, 1.0, 0) == pytest.approx(0.5)
    assert InverseSquareRoot(warmup_steps=4).lr(15, 1.0, 0) == pytest.approx(0.5)


def test_a_cosine_can_end_before_training():
    cosine = Cosine(warmup_steps=10, min_lr=0.1, max_steps=110)
    assert cosine.lr(60, 1.0, 1000) == pytest.approx(0.55)
    assert cosine.lr(110, 1.0, 1000) == cosine.lr(999, 1.0, 1000) == pytest.approx(0.1)


def test_a_warm_up_longer_than_training_is_rejected():
    with pytest.raises(
        ValueError, match=r"takes 50 steps, but trainer\.max_steps is 40; set model\.schedule\.warmup_steps to 39"
    ):
        Cosine(warmup_steps=50).lr(0, 1.0, 40)


def test_a_resumed_schedule_continues_at_its_step_with_the_users_rate():
    def build(lr):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
        return optimizer, StepSchedule(optimizer, Linear(), max_steps=10)

    optimizer, schedule = build(1.0)
    for _ in range(5):
        optimizer.step()
        schedule.step()
    other, continued = build(2.0)
    continued.load_state_dict(schedule.state_dict())
    other.step()
    continued.step()
    assert other.param_groups[0]["lr"] == pytest.approx(2.0 * 0.4)


def test_optimizers_are_fused_unless_configured_otherwise():
    params = [torch.nn.Parameter(torch.zeros(2))]
    assert build_optimizer(lambda p: torch.optim.Adam(p, lr=0.3), params, fused=True).defaults["fused"]
    assert (
        build_optimizer(lambda p: torch.optim.AdamW(p, weight_decay=0.3), params, fused=True).defaults["weight_decay"]
        == 0.3
    )
    assert build_optimizer(lambda p: torch.optim.Adam(p, fused=False), params, fused=True).defaults["fused"] is False
    assert build_optimizer(lambda p: LAMB(p, lr=0.1), params, fused=True).defaults["lr"] == 0.1


def test_gradients_are_clipped_with_a_fused_optimizer_under_bf16_mixed():
    params = [torch.nn.Parameter(torch.zeros(2))]
    optimizer = build_optimizer(lambda p: torch.optim.Adam(p, lr=0.3), params, fused=True)
    params[0].grad = torch.tensor([3.0, 4.0])
    MixedPrecision("bf16-mixed", "cpu").clip_gradients(optimizer, 1.0)
    torch.testing.assert_close(params[0].grad, torch.tensor([0.6, 0.8]))


def test_nemos_rate_warms_up_to_just_below_the_peak_and_decays_linearly():
    rates = [WarmupAnnealing(warmup_share=0.01, min_lr=1e-5).lr(step, 1e-4, 1000) for step in range(1001)]
    # lr (step + 1) / (warmup + 1) during warm-up, then linear from lr to min_lr.
    assert rates[0] == pytest.approx(1e-4 / 11)
    assert rates[9] == pytest.approx(1e-4 * 10 / 11)
    assert rates[10] == 1e-4
    assert rates[505] == pytest.approx((1e-4 + 1e-5) / 2)
    assert rates[1000] == pytest.approx(1e-5)
    with pytest.raises(ValueError, match="warmup_share is 1"):
        WarmupAnnealing(warmup_share=1)


def test_t5s_rate_is_constant_before_it_decays():
    schedule = InverseSquareRoot(warmup_steps=10_000, rises=False)
    assert [schedule.lr(step, 0.01, 0) for step in (0, 5000, 9999)] == [0.01] * 3
    # 1 / sqrt(step), as published.
    assert schedule.lr(40_000 - 1, 0.01, 0) == pytest.approx(40_000**-0.5)
