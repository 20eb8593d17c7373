"""Finance: questions on the tables and texts of annual reports (`tatqa`)."""
