"""A language model on this machine, for as long as prompts are rewritten."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from istar.errors import IstarError, RewriteError
from istar.rewriting import Answering
from istar.text_encoder import quiet_transformers, transformers_library

LONGEST_ANSWER = 512
"""In tokens."""

_LOCAL = {"local_files_only": True, "trust_remote_code": False}


@contextmanager
def loaded_language_model(name: str, device: torch.device | str = "cpu") -> Iterator[Answering]:
    """Inside, a language model answers; afterwards its memory is free.

    Nothing is fetched and no code of the model's is run. The likeliest token is always taken, so
    the same text has the same answer.

    Args:
        name: a directory, or a repository on the Hub that is in its cache.
        device: where it computes, in the numbers that its weights have.

    Raises:
        RewriteError: it is not there, is damaged or of another kind, or memory does not suffice.
        HubError: the Hub's client refuses its settings.
    """
    try:
        held = [_loaded(name, device)]

        def answer(instructions: str, text: str) -> str:
            with _failures_named(name):
                return _answer(*held[0], instructions, text)

        yield answer
    finally:
        held = []
        gc.collect()  # the parts of a model hold each other


def _loaded(name: str, device: torch.device | str) -> tuple[Any, Any]:
    """A model and its tokenizer."""
    transformers = transformers_library()
    with _failures_named(name), quiet_transformers():
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **_LOCAL)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            name, dtype="auto", use_safetensors=True, **_LOCAL
        )
        return model.to(device).eval(), tokenizer


def _answer(model: Any, tokenizer: Any, instructions: str, text: str) -> str:
    # One message, since not every model knows instructions apart from what is said to it.
    asked = f"{instructions}\n\nIdea: {text}\nDescription:"
    if tokenizer.chat_template:
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": asked}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,  # of models that think at length first
        )
    has_start = bool(tokenizer.bos_token) and asked.startswith(tokenizer.bos_token)
    inputs = tokenizer(asked, return_tensors="pt", add_special_tokens=not has_start)
    ids = inputs["input_ids"].to(model.device)
    with torch.inference_mode(), quiet_transformers():
        answered = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=LONGEST_ANSWER,
            do_sample=False,
        )
    answer: str = tokenizer.decode(answered[0, ids.shape[1] :], skip_special_tokens=True)
    return answer


@contextmanager
def _failures_named(name: str) -> Iterator[None]:
    """Whatever a model that somebody else made does not do, in one line."""
    try:
        yield
    except IstarError:
        raise
    except OSError as error:
        raise RewriteError(
            f"the language model {name!r} is neither a directory nor whole in the Hub's cache; "
            f"fetch it with `hf download {name}`",
            remedies=("rewrite_model",),
        ) from error
    except torch.OutOfMemoryError as error:
        raise RewriteError(
            f"memory does not suffice for the language model {name!r}",
            remedies=("rewrite_model",),
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise RewriteError(
            f"the language model {name!r} cannot be used ({type(error).__name__}: {reason})",
            remedies=("rewrite_model",),
        ) from error
