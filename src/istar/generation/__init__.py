"""From a schedule to bits, and from bits to latents."""
