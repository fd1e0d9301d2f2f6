"""What a generation costs: measured on real weights, or counted on tensors without any values."""
