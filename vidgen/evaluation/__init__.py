"""Measuring generated videos beside real ones.

`evaluate.py` measures, by the protocols of `protocol.py`: `windows.py` chooses windows of clips,
`cache.py` keeps features of real ones. `report.py` writes report.json, prints tables and compares
reports; `scores.py` says what each score means; `page.py` makes the HTML page, `plots.py` pictures.
"""
