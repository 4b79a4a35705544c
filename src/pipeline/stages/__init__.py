"""Verbs. Each reads files, writes files, and knows no other stage; pipeline.py puts them in order, and
status.py asks each how far it is."""
