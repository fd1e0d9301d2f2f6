"""How good a model is at the world of shapes, by plain image analysis: no learned judge."""
