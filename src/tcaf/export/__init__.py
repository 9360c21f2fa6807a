"""Models for elsewhere: as ONNX and `torch.export` files, as a page, and on the Hugging Face Hub.

Owns the padded form of every system, which runs without this package, what lies beside such a file,
and the folders and cards that are pushed. What a model is and how it answers is `systems` and
`answers`.
"""
