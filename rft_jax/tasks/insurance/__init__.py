"""Insurance: what a claim was for (`perils`), and whether a policy covers it (`coverage`)."""
