"""Rare disease: a case report in, a ranked list of genes and an explanation out.

`prepare.prepare` writes what a run needs: simulated patients to pre-train on, real cases to
reinforce on and to validate with, and the grader.
"""
