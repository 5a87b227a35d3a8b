"""Records as files: CSV, JSON and Windows PowerShell out, CSV and JSON in. Text and values only."""
