"""A small procedural world of coloured shapes that move: its scenes, pictures and captions."""
