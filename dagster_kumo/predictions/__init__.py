"""The files of predictions: fetch, store, read, summarise.

`predictions` and `remote/output_urls` load without pyarrow, so that definitions that only name `Predictions`
load fast. Modules that work on files are imported when they are needed.
"""
