"""Law: US tax cases, decided under the statutes that the prompt gives (`sara`)."""
