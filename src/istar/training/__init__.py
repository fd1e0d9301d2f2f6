"""Training: of the video tokenizer, and of the transformer with its text encoder."""
