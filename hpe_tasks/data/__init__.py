"""Data sets: where they come from, what is in them, whether they are fit for a run, and what calibrates a model.

Import from the modules themselves: some need numpy or Great Expectations, and this package must stay light.
"""
