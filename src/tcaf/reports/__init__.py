"""What people read of runs: tables as files, figures, and one page about them.

`results` writes a table of the paper; `report` gathers runs, with `detail` for the one shown
closely, into the records of `contents`, which `page` renders. `plots`, `embedding_map` and
`timelines` draw, in the colours of `theme`; `projection` computes what one of them shows.
"""
