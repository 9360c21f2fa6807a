"""Writes small files of word vectors, in each of the formats."""

import numpy as np

WORDS = {
    "playing": [1.0, 0.0, 0.0],
    "flute": [0.0, 1.0, 0.0],
    "Bach": [0.0, 0.0, 2.0],
    "cutting": [3.0, 0.0, 4.0],
    "Paris": [0.0, 3.0, 4.0],
    "paris": [6.0, 0.0, 8.0],
}


def write_glove(path, words=WORDS, header=False):
    lines = [f"{len(words)} 3"] if header else []
    lines += [" ".join([word, *map(repr, vector)]) for word, vector in words.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_bin(path, words=WORDS):
    from gensim.models import KeyedVectors

    vectors = KeyedVectors(len(next(iter(words.values()))))
    vectors.add_vectors(list(words), np.array(list(words.values()), np.float32))
    vectors.save_word2vec_format(str(path), binary=True)
    return path
