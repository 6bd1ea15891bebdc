"""A conventional Transformer-XL as a baseline: one embedding table, slices, einsum, padded shift.

Same sizes and mathematics, every operation in plain PyTorch as in textbooks.
"""

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    def __init__(self, d, n, h, p):
        super().__init__()
        self.n, self.h = n, h
        self.qkv = nn.Linear(d, 3 * n * h, bias=False)
        self.r = nn.Linear(d, n * h, bias=False)
        self.o = nn.Linear(n * h, d, bias=False)
        self.norm = nn.LayerNorm(d)
        self.drop = nn.Dropout(p)

    def shift(self, x):  # (T, K, B, N)
        pad = torch.zeros((x.size(0), 1, *x.size()[2:]), dtype=x.dtype)
        padded = torch.cat([pad, x], dim=1).view(x.size(1) + 1, x.size(0), *x.size()[2:])
        return padded[1:].view_as(x)

    def forward(self, x, r, u, v, mask, memory):  # (T, B, D)
        T, B = x.shape[:2]
        context = torch.cat([memory, x])
        K = context.shape[0]
        q, k, w = self.qkv(context).chunk(3, dim=-1)
        q = q[-T:].view(T, B, self.n, self.h)
        k, w = (t.view(K, B, self.n, self.h) for t in (k, w))
        r = self.r(r).view(K, self.n, self.h)
        content = torch.einsum("ibnd,jbnd->ijbn", q + u, k)
        position = self.shift(torch.einsum("ibnd,jnd->ijbn", q + v, r))
        score = (content + position) / self.h**0.5
        score = score.masked_fill(mask[:, :, None, None], float("-inf"))
        out = torch.einsum("ijbn,jbnd->ibnd", score.softmax(dim=1), w)
        return self.norm(x + self.drop(self.o(out.reshape(T, B, -1))))


class FeedForward(nn.Module):
    def __init__(self, d, f, p):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(d, f), nn.ReLU(), nn.Dropout(p), nn.Linear(f, d), nn.Dropout(p))
        self.norm = nn.LayerNorm(d)

    def forward(self, x):
        return self.norm(x + self.net(x))


class ConventionalTransformerXL(nn.Module):
    def __init__(self, vocab, d, layers, n, h, f, p, cutoffs):
        super().__init__()
        self.edges = [0, *cutoffs, vocab]
        self.table = nn.Parameter(torch.randn(vocab, d) * 0.02)
        self.bias = nn.Parameter(torch.zeros(vocab))
        self.cluster_weight = nn.Parameter(torch.randn(len(cutoffs), d) * 0.02)
        self.cluster_bias = nn.Parameter(torch.zeros(len(cutoffs)))
        self.u = nn.Parameter(torch.randn(n, h) * 0.02)
        self.v = nn.Parameter(torch.randn(n, h) * 0.02)
        self.layers = nn.ModuleList(nn.ModuleList([Attention(d, n, h, p), FeedForward(d, f, p)]) for _ in range(layers))
        self.drop = nn.Dropout(p)
        self.d = d
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.02)

    def loss(self, hidden, target):  # (L, D), (L,)
        weight = torch.cat([self.table[: self.edges[1]], self.cluster_weight])
        bias = torch.cat([self.bias[: self.edges[1]], self.cluster_bias])
        head = F.log_softmax(F.linear(hidden, weight, bias), dim=1)
        nll = torch.zeros_like(target, dtype=hidden.dtype)
        for i in range(len(self.edges) - 1):
            low, high = self.edges[i], self.edges[i + 1]
            index = ((target >= low) & (target < high)).nonzero().squeeze()
            if index.numel() == 0:
                continue
            index = index.reshape(-1)
            t = target[index] - low
            part = head[index]
            if i == 0:
                logprob = part.gather(1, t[:, None]).squeeze(1)
            else:
                tail = F.log_softmax(F.linear(hidden[index], self.table[low:high], self.bias[low:high]), dim=1)
                logprob = part[:, self.edges[1] + i - 1] + tail.gather(1, t[:, None]).squeeze(1)
            nll.index_copy_(0, index, -logprob.to(nll.dtype))
        return nll

    def forward(self, ids, targets, memory):  # (T, B)
        T = ids.shape[0]
        x = self.drop(F.embedding(ids, self.table) * self.d**0.5)
        M = memory[0].shape[0] if memory else 0
        pos = torch.arange(M + T - 1, -1, -1.0)
        freq = 1 / 10000 ** (torch.arange(0, self.d, 2.0) / self.d)
        angle = torch.outer(pos, freq)
        r = self.drop(torch.cat([angle.sin(), angle.cos()], dim=-1))
        mask = torch.triu(torch.ones(T, M + T), diagonal=1 + M).bool()
        new = []
        for i, (attention, ff) in enumerate(self.layers):
            new.append(x.detach()[-T:])
            x = ff(attention(x, r, self.u, self.v, mask, memory[i] if memory else x[:0]))
        return self.loss(self.drop(x).view(-1, self.d), targets.reshape(-1)), new
