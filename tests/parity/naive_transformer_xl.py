"""Transformer-XL written from the paper's equations, sharing no code with the package: slow and explicit.

Weights are read by name from a state dict of the real network.
"""

import math

import torch


def positional_encoding(distance: int, d: int, dtype) -> torch.Tensor:
    frequencies = [1 / 10000 ** (2 * i / d) for i in range(d // 2)]
    return torch.tensor(
        [math.sin(distance * f) for f in frequencies] + [math.cos(distance * f) for f in frequencies], dtype=dtype
    )


def layer_norm(x, weight, bias):
    mean = x.mean(-1, keepdim=True)
    var = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


class NaiveTransformerXL:
    def __init__(self, config, weights):
        self.c, self.w = config, weights
        self.edges = [0, *config.cutoffs, config.vocab_size]

    def table(self, i, side):
        tied = self.c.tie_weights or side == "in"
        return self.w[f"vocabulary.{'tables' if tied else 'out_tables'}.{i}"]

    def projection(self, i, side):
        if self.c.div_val == 1:
            return None
        tied = self.c.projections_tied[i] or side == "in"
        return self.w[f"vocabulary.{'projections' if tied else 'out_projections'}.{i}"]

    def cluster_of(self, token):
        return max(i for i in range(len(self.edges) - 1) if token >= self.edges[i])

    def embed(self, token):
        i = self.cluster_of(token)
        vector = self.table(i, "in")[token - self.edges[i]]
        p = self.projection(i, "in")
        return (vector if p is None else p @ vector) * math.sqrt(self.c.d_model)

    def log_likelihood(self, h, token):
        def project(i):
            p = self.projection(i, "out")
            return h if p is None else p.t() @ h

        head = self.table(0, "out") @ project(0) + self.w["vocabulary.biases.0"]
        if self.c.cutoffs:
            choice = self.w["vocabulary.cluster_weight"] @ project(0) + self.w["vocabulary.cluster_bias"]
            head = torch.cat([head, choice])
        head = head - head.exp().sum().log()
        i = self.cluster_of(token)
        if i == 0:
            return head[token]
        tail = self.table(i, "out") @ project(i) + self.w[f"vocabulary.biases.{i}"]
        return head[self.edges[1] + i - 1] + tail[token - self.edges[i]] - tail.exp().sum().log()

    def attention(self, layer, x, context, mem_len, clamp_len, same_length):
        N, H = self.c.n_heads, self.c.d_head
        W = lambda name: self.w[f"layers.{layer}.attention.{name}.weight"]  # noqa: E731
        q, kv = x @ W("query").t(), context @ W("key_value").t()
        # Per head: its keys, then its values.
        k, v = kv.reshape(len(kv), N, 2, H).transpose(0, 2).reshape(2, N, len(kv), H).transpose(1, 2).flatten(2)
        u, b = self.w["content_bias"], self.w["position_bias"]
        T, K = len(x), len(context)
        M = K - T
        outs = []
        for t in range(T):
            heads = []
            for n in range(N):
                part = slice(n * H, (n + 1) * H)
                seen, scores = [], []
                for j in range(K):
                    distance = M + t - j
                    if distance < 0 or (same_length and distance > mem_len):
                        continue
                    shown = min(distance, clamp_len) if clamp_len else distance
                    r = (W("position") @ positional_encoding(shown, self.c.d_model, x.dtype))[part]
                    content = (q[t, part] + u[n]) @ k[j, part]
                    position = (q[t, part] + b[n]) @ r
                    scores.append((content + position) / math.sqrt(H))
                    seen.append(j)
                weights = torch.stack(scores).exp()
                weights = weights / weights.sum()
                heads.append(sum(a * v[j, part] for a, j in zip(weights, seen, strict=True)))
            outs.append(torch.cat(heads))
        return torch.stack(outs) @ W("out").t()

    def feed_forward(self, layer, x):
        W = lambda name: self.w[f"layers.{layer}.{name}"]  # noqa: E731
        return (x @ W("ff_in.weight").t() + W("ff_in.bias")).clamp(min=0) @ W("ff_out.weight").t() + W("ff_out.bias")

    def norm(self, layer, name, x):
        return layer_norm(x, self.w[f"layers.{layer}.{name}.weight"], self.w[f"layers.{layer}.{name}.bias"])

    def one(self, ids, targets, memory, mem_len, clamp_len=0, same_length=False):
        """One stream: ids and targets are lists; memory is a list per layer of (M, D), or None."""
        x = torch.stack([self.embed(i) for i in ids])
        new_memory = []
        for layer in range(self.c.n_layers):
            context = x if memory is None else torch.cat([memory[layer], x])
            new_memory.append(context[-mem_len:].detach() if mem_len else context[:0].detach())
            settings = (mem_len, clamp_len, same_length)
            if self.c.pre_norm:
                normed = self.norm(layer, "attention_norm", context)
                x = x + self.attention(layer, normed[-len(x) :], normed, *settings)
                x = x + self.feed_forward(layer, self.norm(layer, "ff_norm", x))
            else:
                x = self.norm(layer, "attention_norm", x + self.attention(layer, x, context, *settings))
                x = self.norm(layer, "ff_norm", x + self.feed_forward(layer, x))
        nll = torch.stack([-self.log_likelihood(h, t) for h, t in zip(x, targets, strict=True)])
        return nll, new_memory
