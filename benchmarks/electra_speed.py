"""Pretraining speed of our ELECTRA and of a simple loop over transformers' two models, alternating in one process.

The loop computes the same losses: padded, the generator's head at every position, Gumbel noise for every masked one.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
import transformers

from lmrecipes.batches import MaskedBatch
from lmrecipes.models.electra import Electra, ElectraConfig
from lmrecipes.optim import GroupSettings, build_optimizer, parameter_groups
from lmrecipes.runtime.allocator import tune_process
from reporting import write_json

V, MASK, N_PREDICTIONS = 30522, 103, {128: 19, 512: 79}


def masked_batch(B, T, full):
    """Random sequences of at most T tokens: a share `full` has full length, the rest any length."""
    lengths = torch.where(torch.rand(B) < full, T, torch.randint(T // 8, T + 1, (B,)))
    text = torch.randint(1000, V, (B, T)) * (torch.arange(T) < lengths[:, None])
    P = N_PREDICTIONS[T]
    positions, weights = torch.zeros(B, P, dtype=torch.int64), torch.zeros(B, P)
    for row, length in enumerate(lengths.tolist()):
        n = max(1, min(P, round(0.15 * length)))
        positions[row, :n], weights[row, :n] = torch.randperm(length - 2)[:n] + 1, 1
    originals = text.gather(1, positions)
    masked = text.scatter(1, positions, MASK)
    masked[:, 0] = text[:, 0]
    types = torch.zeros_like(text)
    return MaskedBatch(masked, types, lengths, positions, originals, weights)


class Ours:
    def __init__(self, config, autocast):
        torch.manual_seed(0)
        self.network, self.autocast = Electra(config).train(), autocast
        groups = parameter_groups(self.network, GroupSettings())
        self.optimizer = build_optimizer(
            lambda p: torch.optim.AdamW(p, lr=1e-4, eps=1e-6, weight_decay=0.01), groups, fused=True
        )

    def step(self, batch):
        self.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.autocast):
            loss = self.network(**batch._asdict()).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()


class Straightforward:
    """Starts with the weights of our network."""

    def __init__(self, network, autocast):
        config = network.config
        self.discriminator = transformers.ElectraForPreTraining(config.transformers()).train()
        self.discriminator.electra.load_state_dict(network.discriminator.state_dict())
        self.discriminator.discriminator_predictions.load_state_dict(network.discriminator_head.state_dict())
        self.generator = transformers.ElectraForMaskedLM(config.generator_transformers()).train()
        self.generator.electra.load_state_dict(network.generator.state_dict(), strict=False)
        self.generator.generator_predictions.load_state_dict(network.generator_head.state_dict())
        self.generator.electra.embeddings = self.discriminator.electra.embeddings
        self.generator.generator_lm_head.weight = self.discriminator.electra.embeddings.word_embeddings.weight
        both = torch.nn.ModuleList([self.discriminator, self.generator])
        self.parameters, self.autocast = list(both.parameters()), autocast
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, eps=1e-6, weight_decay=0.01)

    def loss(self, batch):
        T = batch.input_ids.shape[1]
        real = (torch.arange(T) < batch.lengths[:, None]).long()
        inputs = {"attention_mask": real, "token_type_ids": batch.token_type_ids}
        chosen = batch.weights > 0
        rows = torch.arange(len(real))[:, None].expand_as(batch.positions)[chosen]
        places, originals = batch.positions[chosen], batch.originals[chosen]
        labels = torch.full_like(batch.input_ids, -100)
        labels[rows, places] = originals
        out = self.generator(input_ids=batch.input_ids, labels=labels, **inputs)
        logits = out.logits[rows, places].detach().float()
        noise = -torch.log(-torch.log(torch.rand_like(logits) + 1e-9) + 1e-9)
        shown = batch.input_ids.clone()
        shown[rows, places] = (logits + noise).argmax(-1)
        text = batch.input_ids.clone()
        text[rows, places] = originals
        discriminated = self.discriminator(input_ids=shown, labels=(shown != text).long(), **inputs)
        return out.loss + 50 * discriminated.loss

    def step(self, batch):
        self.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.autocast):
            loss = self.loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return loss.item()


def losses_differ_by(ours, theirs, batch):
    """Difference of the generators' losses without dropout; these do not depend on sampling."""
    with torch.no_grad():
        ours.network.eval()
        theirs.generator.eval()
        our_loss = ours.network(**batch._asdict()).generator_loss
        chosen = batch.weights > 0
        rows = torch.arange(len(batch.lengths))[:, None].expand_as(batch.positions)[chosen]
        labels = torch.full_like(batch.input_ids, -100)
        labels[rows, batch.positions[chosen]] = batch.originals[chosen]
        real = (torch.arange(batch.input_ids.shape[1]) < batch.lengths[:, None]).long()
        generated = theirs.generator(
            input_ids=batch.input_ids, labels=labels, attention_mask=real, token_type_ids=batch.token_type_ids
        )
    ours.network.train()
    theirs.generator.train()
    return abs(our_loss - generated.loss).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8, help="measured steps per implementation")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--seq_len", type=int, default=128, choices=sorted(N_PREDICTIONS))
    parser.add_argument("--full", type=float, default=0.75, help="share of sequences without padding")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    tuned = tune_process()
    config = ElectraConfig(vocab_size=V)
    runs = {}
    for name, autocast in (("fp32", False), ("bf16", True)):
        runs[f"lmrecipes {name}"] = Ours(config, autocast)
        runs[f"straightforward {name}"] = Straightforward(runs[f"lmrecipes {name}"].network, autocast)
    torch.manual_seed(0)
    batches = [masked_batch(options.batch_size, options.seq_len, options.full) for _ in range(options.steps + 2)]
    apart = losses_differ_by(runs["lmrecipes fp32"], runs["straightforward fp32"], batches[0])
    assert apart < 1e-3, f"the losses differ by {apart}"
    times, losses = {name: [] for name in runs}, {name: [] for name in runs}
    for i, batch in enumerate(batches):
        for name, run in runs.items():
            began = time.perf_counter()
            loss = run.step(batch)
            if i >= 2:  # the first two are warm-up
                times[name].append(time.perf_counter() - began)
                losses[name].append(loss)
    rows = {}
    for name, measured in times.items():
        precision = name.split()[-1]
        base = statistics.median(times[f"straightforward {precision}"])
        median = statistics.median(measured)
        rows[name] = {
            "sequences_per_s": round(options.batch_size / median, 2),
            "ratio": round(base / median, 2),
            "loss": round(statistics.mean(losses[name]), 2),
        }
        print(
            f"{name:<22} {rows[name]['sequences_per_s']:>8.2f} sequences/s  x{rows[name]['ratio']:.2f}  "
            f"mean loss {rows[name]['loss']:.2f}"
        )
    print(
        f"ELECTRA small, {options.batch_size} x {options.seq_len}, {options.full:.0%} of the sequences full; "
        f"{torch.get_num_threads()} threads, allocator tuned: {tuned}; medians of {options.steps} steps in turn"
    )
    write_json(options.json, rows)


if __name__ == "__main__":
    main()
