"""rft_jax: reinforcement fine-tuning in JAX, with graders that run on the device."""

__version__ = "0.1.0"
