"""ELECTRA's objective written directly with transformers' models: padded, at every position, sharing no computation."""

import torch
import torch.nn.functional as F
import transformers


def naive_models(network):
    """transformers' models with the weights of our network, sharing their embeddings."""
    config = network.config
    discriminator = transformers.ElectraForPreTraining(config.transformers())
    generator = transformers.ElectraForMaskedLM(config.generator_transformers())
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name == "generator_bias":
                generator.generator_lm_head.bias.copy_(value)
                continue
            part, _, rest = name.partition(".")
            model, where = {
                "discriminator": (discriminator, "electra"),
                "discriminator_head": (discriminator, "discriminator_predictions"),
                "generator": (generator, "electra"),
                "generator_head": (generator, "generator_predictions"),
            }[part]
            model.get_parameter(f"{where}.{rest}").copy_(value)
    generator.electra.embeddings = discriminator.electra.embeddings
    generator.generator_lm_head.weight = discriminator.electra.embeddings.word_embeddings.weight
    return generator, discriminator


def naive_losses(generator, discriminator, batch, draw):
    """Both losses; `draw` samples tokens from logits (M, V) of the positions to predict, in batch order."""
    real = torch.arange(batch.input_ids.shape[1]) < batch.lengths[:, None]
    logits = generator(
        input_ids=batch.input_ids, attention_mask=real.long(), token_type_ids=batch.token_type_ids
    ).logits
    shown, text = batch.input_ids.clone(), batch.input_ids.clone()
    positions = [
        (row, int(batch.positions[row, i]), int(batch.originals[row, i]))
        for row in range(len(shown))
        for i in range(batch.positions.shape[1])
        if batch.weights[row, i]
    ]
    rows = torch.stack([logits[row, column] for row, column, _ in positions])
    generator_loss = F.cross_entropy(rows, torch.tensor([original for *_, original in positions]))
    for (row, column, original), token in zip(positions, draw(rows.detach()).tolist(), strict=True):
        shown[row, column], text[row, column] = token, original
    labels = (shown != text).long()
    discriminator_loss = discriminator(
        input_ids=shown, attention_mask=real.long(), token_type_ids=batch.token_type_ids, labels=labels
    ).loss
    return generator_loss, discriminator_loss, shown
