"""Learning: advantages, policy losses, the update, supervised learning."""
