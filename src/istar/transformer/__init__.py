"""The network that predicts bits."""
