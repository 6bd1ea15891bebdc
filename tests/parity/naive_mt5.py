"""NeMo's mT5 written naively, for one pair of texts."""

import math

import torch
import torch.nn.functional as F


def naive_losses(weights, config, input_ids, decoder_input_ids, targets):
    """Loss of each target (U,), from a state dict."""

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        mean = x.mean(-1, keepdim=True)
        variance = ((x - mean) ** 2).mean(-1, keepdim=True)
        return (x - mean) / torch.sqrt(variance + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def attention(x, context, name, number, causal):
        q, k, v = linear(x, f"{name}.query"), linear(context, f"{name}.key"), linear(context, f"{name}.value")
        outputs = []
        for head in range(config.n_heads):
            part = slice(head * config.d_head, (head + 1) * config.d_head)
            # Query-key layer scaling: divided by the layer's number first, multiplied back in the softmax.
            scores = q[:, part] @ k[:, part].T / (math.sqrt(config.d_head) * number)
            if causal:
                scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -10000.0)
            outputs.append(torch.softmax(scores * number, -1) @ v[:, part])
        return linear(torch.cat(outputs, -1), f"{name}.out")

    def feed_forward(x, name):
        gate = linear(x, f"{name}.gate")
        gelu = 0.5 * gate * (1 + torch.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
        return linear(gelu * linear(x, f"{name}.up"), f"{name}.down")

    def stack(ids, which, encoded=None):
        x = weights["embedding.weight"][ids] + weights[f"{which}.positions.weight"][: len(ids)]
        for i in range(config.n_layers):
            name = f"{which}.layers.{i}"
            normed = norm(x, f"{name}.attention_norm")
            x = x + attention(normed, normed, f"{name}.attention", i + 1, causal=encoded is not None)
            if encoded is not None:
                normed = norm(x, f"{name}.input_norm")
                x = x + attention(normed, encoded, f"{name}.input_attention", i + 1, causal=False)
            x = x + feed_forward(norm(x, f"{name}.ff_norm"), f"{name}.ff")
        return norm(x, f"{which}.norm")

    hidden = stack(decoder_input_ids, "decoder", stack(input_ids, "encoder"))
    logits = hidden @ weights["embedding.weight"].T + weights["head_bias"]
    return F.cross_entropy(logits, targets, reduction="none")
