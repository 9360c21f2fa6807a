"""Classifies the features of a clip by an exported model: numpy and onnxruntime, nothing else.

    python examples/classify_without_torch.py exported/model.onnx clip.npz --add "owl hooting"

clip.npz holds the arrays `audio` and `visual`, a token a row; a clip may lack one. Names to add
come from vocabulary.json, which `tcaf export --vocabulary names.txt` writes.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime

parser = argparse.ArgumentParser()
parser.add_argument("model", type=Path)
parser.add_argument("clip", type=Path)
parser.add_argument("--add", nargs="*", default=[])
given = parser.parse_args()

folder = given.model.parent
known = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
names, seen = known["names"], known["seen"]
classes = np.array(known["class_embedding"], np.float32)
if given.add:  # text embeddings become what clips are compared with
    words = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
    rows = [words["names"].index(name) for name in given.add]
    spaces = words["text_embedding"].items()
    text = {space: np.array(matrix, np.float32)[rows] for space, matrix in spaces}
    made = onnxruntime.InferenceSession(folder / known["text_model"]).run(None, text)[0]
    names, seen = names + given.add, seen + [False] * len(given.add)
    classes = np.concatenate([classes, made])

clip, inputs = np.load(given.clip), {"class_embedding": classes, "seen": np.array(seen)}
for modality in {name.removesuffix("_mask") for name in known["inputs"]} & {"audio", "visual"}:
    dim = known["features"].get(modality, {"dim": 1})["dim"]
    tokens = clip[modality] if modality in clip else np.zeros((0, dim), np.float32)
    length = max(1, len(tokens))  # a clip without sound is one place without a token
    padded = np.zeros((1, length, dim), np.float32)
    padded[0, : len(tokens)] = tokens
    inputs |= {modality: padded, f"{modality}_mask": np.arange(length)[None] < len(tokens)}
inputs = {name: inputs[name] for name in known["inputs"]}
made = onnxruntime.InferenceSession(given.model).run(known["outputs"], inputs)
found = dict(zip(known["outputs"], made, strict=True))
chances = found.get("probabilities", -found["distances"])[0]  # some models have distances alone
for column in np.argsort(-chances)[:5]:
    print(f"{chances[column]:.6f}  {names[column]}{'' if seen[column] else '  (unseen)'}")
