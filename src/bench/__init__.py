"""Benchmark of the product's speed. No other package imports this one.

product.py calls the product; plain.py does the same work with common libraries; parts.py lists the comparisons;
measure.py runs the contenders in turns, in separate processes.
"""
