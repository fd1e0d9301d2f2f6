"""Pictures to latents, latents to bits, and back."""
