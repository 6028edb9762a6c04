"""Prediction files: fetch, store, read, summarise.

`predictions` and `addresses` load without pyarrow, so that definitions which only name `Predictions`
stay light; the modules that touch files are imported when a file is touched.
"""
