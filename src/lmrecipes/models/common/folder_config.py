"""config.json of a Hugging Face folder, compared field by field with the network that takes its weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Fields that change nothing of what is loaded, whatever the model: what wrote the folder, what calls return, other
# heads, special tokens (which are the vocabulary's here), and how texts are generated.
_FREE = frozenset(
    (
        *("_name_or_path", "_attn_implementation", "_commit_hash", "architectures", "attn_implementation", "dtype"),
        *("model_type", "tokenizer_class", "torch_dtype", "torchscript", "transformers_version"),
        *("use_bfloat16", "tf_legacy_loss", "output_attentions", "output_hidden_states", "output_past", "return_dict"),
        *("use_cache", "use_return_dict", "chunk_size_feed_forward", "gradient_checkpointing", "classifier_dropout"),
        *("finetuning_task", "id2label", "label2id", "num_labels", "problem_type", "task_specific_params"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "bad_words_ids", "begin_suppress_tokens"),
        *("diversity_penalty", "do_sample", "early_stopping", "encoder_no_repeat_ngram_size"),
        *("exponential_decay_length_penalty", "forced_bos_token_id", "forced_eos_token_id", "length_penalty"),
        *("max_length", "min_length", "no_repeat_ngram_size", "num_beam_groups", "num_beams"),
        *("num_return_sequences", "output_scores", "prefix", "remove_invalid_values", "repetition_penalty"),
        *("return_dict_in_generate", "suppress_tokens", "temperature", "top_k", "top_p", "typical_p"),
    )
)
_FIXED: dict[str, tuple[Any, ...]] = {
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "tie_encoder_decoder": (False,),
    "pruned_heads": ({},),
    "quantization_config": (None,),
}


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Every field of a model's configuration by what it does to the network."""

    sizes: Mapping[str, str]
    """Must be as in the network: each with the field of ours that sets it."""
    fixed: Mapping[str, tuple[Any, ...]]
    """Those whose other values make another function: each with the values that are computed here."""
    free: frozenset[str]
    """Change nothing of what is loaded, such as dropout, which is the recipe's."""
    derived: frozenset[str] = frozenset()
    """Follow from other fields unless they are given: transformers' defaults of them say nothing."""

    def check(
        self, published: Mapping[str, Any], expected: Mapping[str, Any], defaults: Mapping[str, Any], source: str
    ) -> None:
        """Compares a folder's configuration with a network; warns of fields that no table here knows.

        Args:
            published: the content of its config.json; null and what is left out are transformers' defaults.
            expected: the network's sizes by transformers' names.
            defaults: transformers' defaults.
            source: what the user gave, for the warning.

        Raises:
            ValueError: naming the first field that makes it another network, and the value that works.
        """
        given = {name: value for name, value in published.items() if value is not None}
        values = {name: value for name, value in defaults.items() if name not in self.derived} | given
        for theirs, ours in self.sizes.items():
            value = values.get(theirs)
            if value not in (None, expected[theirs]):
                what = _shown(theirs, value, given)
                raise ValueError(f"{what}, but model.config.{ours} makes {expected[theirs]}")
        fixed = {**_FIXED, **self.fixed}
        for name, computed in fixed.items():
            value = values.get(name)
            if value is not None and value not in computed:
                works = " or ".join(map(str, computed))
                raise ValueError(f"{_shown(name, value, given)}, but only {works} is computed here")
        known = {*self.sizes, *fixed, *self.free, *_FREE}
        set_ones = (name for name, value in given.items() if value not in (False, {}, [], ""))
        if unknown := ", ".join(sorted(name for name in set_ones if name not in known)):
            message = f"{source}: its config.json has fields that are not known here and left out: {unknown}"
            warnings.warn(message, stacklevel=4)


def _shown(name: str, value: Any, given: Mapping[str, Any]) -> str:
    return f"its {name} is {value}" + ("" if name in given else " (transformers' default)")
