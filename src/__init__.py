"""Anomaly detection in desensitised CT reports: reports in, submission out. Start at `__main__.py`."""
