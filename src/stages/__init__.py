"""Verbs. Each reads files, writes files, and knows no other stage; pipeline.py alone puts them in order."""
