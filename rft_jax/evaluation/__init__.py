"""Models on a file of items: sampled, graded, compared."""
