"""`rft serve`: OpenAI's fine-tuning API over this package.

The API process keeps the database and touches no device; children of it train (`trainer`), answer
(`engine`) and grade (`graders`).
"""
