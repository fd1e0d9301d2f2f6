"""A real language model in a directory that says one thing, whatever it is asked."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch

from istar.text_encoder import transformers_library

library = transformers_library()

SAYS = "fox hunt"
"""Every letter once: the letter before decides the next one."""


def write_parrot(target: Path, *, template: str | None = None) -> Path:
    """Write the model and its tokenizer.

    Args:
        target: a directory to be made.
        template: of its chats; it must end in `!`.
    """
    tokenizer = library.ByT5Tokenizer(extra_ids=0)
    tokenizer.chat_template = template
    size = len(tokenizer)
    config = library.LlamaConfig(
        vocab_size=size,
        hidden_size=size + size % 2,
        intermediate_size=2,
        num_hidden_layers=1,
        num_attention_heads=1,
        head_dim=2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    model = library.LlamaForCausalLM(config)
    said = tokenizer(SAYS)["input_ids"]  # its end mark is the last
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.model.norm.weight.fill_(1)
        model.model.embed_tokens.weight.copy_(torch.eye(size, config.hidden_size))
        follows = dict(pairwise(said))
        for start in tokenizer("!:")["input_ids"]:
            follows[start] = said[0]
        for before, after in follows.items():
            model.lm_head.weight[after, before] = 1
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target
