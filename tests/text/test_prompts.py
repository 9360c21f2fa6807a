import pytest

from tcaf.errors import TCAFError
from tcaf.settings.sections import TextSettings
from tcaf.text.phrases import class_phrases
from tcaf.text.prompts import NAME, prompt_sets, prompted, read_prompts


def test_the_sets_of_clipclap_have_the_published_sizes():
    sizes = {name: len(templates) for name, templates in prompt_sets().items()}
    # 4 beginnings, 2 persons, 6 verbs; 4 beginnings, with or without an article.
    assert sizes["actions"] == 48
    assert sizes["sounds"] == 8
    assert sizes["actions_heard"] == 30
    assert sizes["sounds_heard"] == 9


def test_each_template_of_a_set_has_the_name_once_and_is_there_once():
    for templates in prompt_sets().values():
        assert len(set(templates)) == len(templates)
        for template in templates:
            assert template.count(NAME) == 1
            assert template == template.strip()
            assert "  " not in template
            assert template.count("{") == 1


def test_parts_are_combined():
    actions = prompt_sets()["actions"]
    assert actions[0] == "a photo of a person {}"
    assert actions[1] == "a photo of a person using {}"
    assert actions[-1] == "a demonstration of the person practicing {}"
    assert "a video of the dog" in prompted(["dog"], prompt_sets()["sounds"])


def test_a_file_has_a_template_a_line(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("# mine\nthis is {}\n\n  # {} and {}\n {} it is\n")
    assert read_prompts(str(path)) == ("this is {}", "{} it is")
    assert read_prompts("") == (NAME,)
    for content, line in (("a\n", 1), ("{}\n\n{} and {}\n", 3)):
        path.write_text(content)
        with pytest.raises(TCAFError, match=rf"mine.txt, line {line}: expected a template with"):
            read_prompts(str(path))
    path.write_text("# nothing\n")
    with pytest.raises(TCAFError, match=r"expected templates, one a line, found none$"):
        read_prompts(str(path))


def test_a_set_that_is_none_is_refused():
    with pytest.raises(TCAFError, match=r"got 'acitons'; did you mean 'actions'\?$"):
        read_prompts("acitons")


def test_phrases_are_put_into_each_template(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("see {}\nhear {}\n")
    settings = TextSettings(source="sentence", prompts=str(path))
    found = class_phrases(settings, ["red_cat", "dog"], phrases={"dog": ["a dog", "a {}"]})
    assert found == {
        "red_cat": ["see red cat", "hear red cat"],
        "dog": ["see a dog", "hear a dog", "see a {}", "hear a {}"],
    }
