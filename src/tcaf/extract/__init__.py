"""From media files to features: decoding, backbones, weights (extra `video`).

Nothing else in the package imports it but `sources`, `answers` and the pictures of
`reports.answer_timeline`.
"""
