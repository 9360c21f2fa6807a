import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tcaf.systems.layout import SEES, TokenLayout

CPU = torch.device("cpu")


def layout(**lens):
    groups = {"class" if group == "token" else group: each for group, each in lens.items()}
    return TokenLayout({group: torch.tensor(each) for group, each in groups.items()}, CPU)


def test_table_of_patterns():
    # Table 3: A_c joins the class token to everything; cross adds the other modality, self the own.
    for pattern, sees in SEES.items():
        assert set(sees["class"]) == {"class", "audio", "visual"}, pattern
        for own, other in (("audio", "visual"), ("visual", "audio")):
            assert "class" in sees[own]
            assert (own in sees[own]) == (pattern in ("self", "full"))
            assert (other in sees[own]) == (pattern in ("cross", "full"))


def test_rows_by_hand():
    made = layout(visual=[1, 0], audio=[2, 3], token=[1, 1])
    assert made.groups == ("class", "audio", "visual")
    assert made.num_rows == 8
    rows = torch.arange(8.0)[:, None]
    parts = {group: part.flatten().tolist() for group, part in made.split(rows).items()}
    assert parts == {"class": [0, 1], "audio": [2, 3, 4, 5, 6], "visual": [7]}
    assert made.rows_of(rows, made.groups) is rows
    assert made.rows_of(rows, ("visual", "class")).flatten().tolist() == [0, 1, 7]


def test_buckets_by_hand():
    # Widths 10, 7, 6, 4, 0 (and 1 of the class token each): 8 >= 0.7 x 11 > 7; 7 starts anew and
    # takes 5 >= 0.7 x 7.
    made = layout(token=[1] * 5, audio=[2, 6, 0, 3, 3], visual=[2, 4, 0, 4, 3])
    assert [bucket.tolist() for bucket in made.buckets] == [[1, 3], [4, 0], [2]]
    # Of clips without any token there is nothing to compute.
    assert [bucket.tolist() for bucket in layout(audio=[0, 2, 0]).buckets] == [[1]]
    assert layout(audio=[3] * 4, visual=[5] * 4).buckets[0].tolist() == [0, 1, 2, 3]


clips = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 13)), min_size=1, max_size=7)


@settings(max_examples=40, deadline=None)
@given(clips, st.sampled_from(tuple(SEES)), st.booleans(), st.booleans())
def test_every_place_is_gathered_once_and_comes_back(lens, pattern, token, whole):
    audio, visual = map(list, zip(*lens, strict=True))
    made = layout(**({"token": [1] * len(lens)} if token else {}), audio=audio, visual=visual)
    queries = made.groups if whole else made.groups[:1]
    heads = 3
    plan = made.plan(pattern, queries, heads)
    assert made.plan(pattern, queries, heads) is plan
    num = sum(int(made.lens[group].sum()) for group in queries)
    for_query, for_key = (3, 3) if plan.joined else (1, 2)
    sources = torch.arange(num * heads * for_query), torch.arange(made.num_rows * heads * for_key)
    gathered = sources[0][plan.query_from], sources[1][plan.key_from]
    if plan.joined:
        back = torch.cat(gathered)[plan.joined_row_from]
        assert torch.equal(back, sources[0])
    else:
        assert torch.equal(gathered[0][plan.row_from], sources[0])
        assert torch.equal(gathered[1][plan.key_row_from], sources[1])
    places = torch.arange(num * heads)
    assert torch.equal(places[plan.query_place][plan.row_from], places)
    padding = 0 if plan.padding is None else len(plan.padding)
    assert len(plan.query_from) == num * heads + padding


@pytest.mark.parametrize("pattern", tuple(SEES))
def test_no_padding_for_clips_of_one_length(pattern):
    made = layout(token=[1] * 3, audio=[2] * 3, visual=[5] * 3)
    plan = made.plan(pattern, made.groups, 2)
    assert plan.padding is None
    (bucket,) = plan.buckets
    assert all(block.hidden is None and block.lonely is None for block in bucket.blocks)
    assert len(bucket.blocks) == (1 if pattern == "full" else 3)
