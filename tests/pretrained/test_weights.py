import os
import pickle
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from tcaf.errors import TCAFError
from tcaf.pretrained.weights import load_into, read_state_dict

# Reading


TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([7, 11])}


@pytest.mark.parametrize("kind", ["safetensors", "torch", "legacy", "inside"])
def test_tensors_are_read_as_they_were_written(tmp_path, kind):
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(TENSORS, path)
    else:
        content = {"state_dict": TENSORS, "epoch": 3} if kind == "inside" else TENSORS
        torch.save(content, path, _use_new_zipfile_serialization=kind != "legacy")
    state = read_state_dict(path)
    assert list(state) == list(TENSORS) if kind != "safetensors" else set(state) == set(TENSORS)
    for key, value in TENSORS.items():
        assert state[key].dtype == value.dtype
        assert torch.equal(state[key], value)


class Malicious:
    def __reduce__(self):
        return (os.mkdir, ("ran",))


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_code_in_a_file_is_not_run(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pth"
    if kind == "torch":
        torch.save({"a": Malicious()}, path)
    else:
        path.write_bytes(pickle.dumps({"a": Malicious()}))
    with pytest.raises(TCAFError, match=r"at .*w\.pth; it is damaged, or holds more than") as error:
        read_state_dict(path)
    assert "\n" not in str(error.value)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "found an empty dict"),
        (torch.ones(2), "found Tensor"),
        ({"a": torch.ones(2), "b": 3}, "found 'b' of type int"),
        ({7: torch.ones(2)}, "found 7 of type Tensor"),
    ],
)
def test_other_objects_than_named_tensors_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(TCAFError, match=message):
        read_state_dict(tmp_path / "w.pth")


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(TCAFError, match="found nothing"):
        read_state_dict(tmp_path / "w.pth")
    with pytest.raises(TCAFError, match="found a folder"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "old.pth"])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_damage_never_ends_in_another_error(tmp_path_factory, name, data):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    path = folder / name
    if path.suffix == ".safetensors":
        save_file(TENSORS, path)
    else:
        torch.save(TENSORS, path, _use_new_zipfile_serialization=name != "old.pth")
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=5)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(TCAFError):
        state = read_state_dict(path)
        assert all(isinstance(value, torch.Tensor) for value in state.values())


# Loading


def network():
    return nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 7))


def test_a_network_takes_its_weights():
    source, target = network(), network()
    load_into(target, source.state_dict(), "own")
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value)


def test_weights_of_another_network_are_told_by_name_and_shape():
    state = network().state_dict()
    state["extra"] = state.pop("0.bias")
    state["1.weight"] = state["1.weight"].T
    before = network()
    kept_weights = {key: value.clone() for key, value in before.state_dict().items()}
    with pytest.raises(TCAFError) as error:
        load_into(before, state, "the weights at w.pth")
    assert str(error.value) == (
        "the weights at w.pth are not weights of this network; missing: 0.bias (5,); unexpected: "
        "extra (5,); of another shape: 1.weight (5, 7) in place of (7, 5)"
    )
    assert all(torch.equal(before.state_dict()[k], v) for k, v in kept_weights.items())
    with pytest.raises(TCAFError, match=r"missing: .*, 1\.weight \(7, 5\) and 1 more$"):
        load_into(before, {}, "nothing")
