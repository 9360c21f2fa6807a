"""The report of `make bench`: what is told of figures, and that all it runs takes its options."""

import importlib
import json
import re

import pytest
from benchmarks import speed

STEPS = {
    "seconds": {"floor": 0.1, "step": 0.14, "padded": 0.7, "one bucket": 0.154},
    "to_floor": {"floor": 1.0, "step": 1.4, "padded": 7.0, "one bucket": 1.54},
    "padded_to_step": 5.0,
    "floor_flops": 1000,
    "step_flops": 1010,
}
SLOW = STEPS | {"to_floor": {"step": 1.61}, "padded_to_step": 3.94}
CACHE = {"now_ms": 12.0, "before_to_now": 1.5, "now_to_copy": 2.0, "target_ms": 10.0}
FIGURES = {
    "train_step": {"threads": 2, "shapes": {"UCF": STEPS}, "profile": {"UCF": "addmm 60 %"}},
    "long_step": {"threads": 2, "shapes": {"ActivityNet": SLOW}, "profile": {}},
    "evaluation": {
        "clips": 10_000,
        "all_clips_s": 60.0,
        "all_clips_peak_mib": 900.0,
        "before_peak_mib": 300.0,
        "long_clip_s": 5.0,
        "long_clip_peak_mib": 1500.0,
        "padded_to_ours": 7.0,
        "one_by_one_to_ours": 3.0,
    },
    "textlda_fit": {
        "clips": 60_000,
        "names": 10_000,
        "names_s": 1.5,
        **{f"{name}_to_floor": 1.5 for name in ("ridge", "textlda", "ridge_before")},
        **{
            f"{name}_to_floor_with_eigenvalues": 1.25
            for name in ("ridge", "textlda", "ridge_before")
        },
    },
    "extraction": {
        "networks": {
            "c3d": {
                "of_convolutions_speed": 0.93,
                "target_of_convolutions_speed": 0.7,
                "plain_to_embed": 1.4,
                "off_by_of_largest": 2e-6,
            }
        },
        "times_real_time": {"decode": {"by_the_clock": 40.0, "by_the_processor": 41.0}},
        "cores_full": {"of_the_command": 0.91, "looks_with_both_busy": 0.8},
    },
    "loader": {
        "UCF, float16": {
            "in_cache": CACHE,
            "beyond_memory": {"slower_without": 1.3, "slower_ahead": 1.02},
        },
        "UCF, float32": {"in_cache": CACHE | {"now_ms": 3.0}},
    },
    "start_up": {
        "starts": {
            "import tcaf": {"s": 0.1, "processor_s": 0.1, "modules": 40, "target_s": 0.2},
            "import torch": {"s": 1.0, "processor_s": 1.1, "modules": 900},
        }
    },
}
HOW = {"commit": "0123456789ab", "s": 60.0, "load_before": 0.25}


def figures():
    return {name: own | {"circumstances": HOW} for name, own in FIGURES.items()}


def row(told, first):
    return next(line for line in told.splitlines() if line.startswith(f"| {first} |"))


def test_figures_stand_beside_what_was_aimed_at_and_a_miss_is_bold():
    told = speed.report(figures())
    assert "| 1.40 [1.6] |" in row(told, "UCF")
    assert "| 5.0 [4] |" in row(told, "UCF")
    assert "| **1.61** [1.45] |" in row(told, "ActivityNet")
    assert "| **3.9** [4] |" in row(told, "ActivityNet")
    assert "| **12.00** [10] |" in row(told, "UCF, float16")
    assert "1.30, 1.02" in row(told, "UCF, float16")
    assert "| 1.25 [1.3] |" in row(told, "TextLDA")
    assert "93 % [70]" in row(told, "c3d")


def test_every_saving_is_told_and_every_table_is_square():
    told = speed.report(figures())
    assert row(told, "one bucket") == "| one bucket | 1.100 |"
    assert "addmm 60 %" in told
    for block in re.findall(r"(?:^\|.*\n)+", told, re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1, block


def test_what_brought_nothing_is_told_as_the_benchmarks_tell_it():
    told = speed.report(figures())
    for module in ("train_step", "textlda_fit", "extraction", "loader", "start_up"):
        assert f"`{module}`: " in told.split("## What was tried")[1], module


@pytest.mark.parametrize("name", speed.RUNS)
def test_what_is_run_takes_its_options(name, monkeypatch, capsys):
    module, options = speed.RUNS[name]
    more = ("--folder", "f") if module == "evaluation" else ()
    arguments = [module, *options, "--out", "f.json", *more, "--no-such-option"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit):
        importlib.import_module(f"benchmarks.{module}").main()
    assert "unrecognized arguments: --no-such-option\n" in capsys.readouterr().err


def test_figures_that_are_missing_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speed, "run", lambda name, out, work: out.write_text(json.dumps({})))
    monkeypatch.setattr("sys.argv", ["speed", "--work", str(tmp_path), "--only", "loader"])
    with pytest.raises(SystemExit) as ended:
        speed.main()
    assert ended.value.code == 2
    assert "no figures of train_step, long_step, evaluation" in capsys.readouterr().err


@pytest.mark.slow
def test_a_benchmark_that_fails_ends_it(tmp_path, monkeypatch):
    monkeypatch.setitem(speed.RUNS, "loader", ("loader", ("--rounds", "none")))
    with pytest.raises(SystemExit, match="ended with status 2"):
        speed.run("loader", tmp_path / "loader.json", tmp_path)
    assert "invalid int value" in (tmp_path / "loader.log").read_text()
