"""A procedural world of moving shapes, and tests of a model in it by plain image analysis."""
