from tcaf.app.page_table import Cell, Column, number_cell, sortable_table

COLUMNS = (Column("file"), Column("share <%>", is_number=True))


def test_cells_carry_what_they_are_sorted_by():
    rows = [
        (Cell("<b>a</b>", "a"), number_cell(0.5, "50 %")),
        (Cell("b", '"'), number_cell(None, "")),
    ]
    html = sortable_table("many", 'All "answers"', COLUMNS, rows)
    assert '<th scope="row" class="t-text" data-t-value="a"><b>a</b></th>' in html
    assert '<td data-t-value="0.5">50 %</td>' in html
    # What has no value comes last either way.
    assert '<td data-t-value="">–</td>' in html
    assert 'data-t-value="&quot;"' in html
    assert 'aria-label="All &quot;answers&quot;"' in html


def test_heads_are_buttons():
    html = sortable_table("many", "Answers", COLUMNS, [])
    assert html.count('aria-sort="none"') == 2
    assert '<button type="button" data-t-sort="text">file<' in html
    assert '<button type="button" data-t-sort="number">share &lt;%&gt;<' in html
    assert 'data-t-table="many"' in html
