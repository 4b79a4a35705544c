"""Trained runs that answer requests: bundles, small models, the HTTP service and streams."""
