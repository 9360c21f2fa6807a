"""Reports: figures, and one self-contained HTML page. The extra `plot` draws them.

    theme           colours in two themes, the way in to matplotlib, figures as SVG
    projection      t-SNE, and the choice of the classes and clips that it shows
    attention_maps  where a trained model looks in one clip
    embedding_map   the figure of what `projection` lays out
    plots           figures of decisions: seen-unseen curves, accuracy by class, confusion
    timelines       figures over epochs and over a clip's seconds
    contents        what a page holds, as data
    page            the page's HTML

None of them reads runs or stores, or writes a file.
"""
