"""Key templates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfeedd.catalog.templates import DEFAULT_IMAGES, DEFAULT_LABELS, KeyTemplate, KeyTemplates
from ringfeedd.errors import ConfigError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(TEXT, st.sampled_from([DEFAULT_IMAGES, "{id}.png", "a b/{id}_x.v2.tif,tiff", "d/{id}", "d/{id}/rgb.png"]))
def test_a_name_made_from_an_id_returns_it(pair_id, text):
    template = KeyTemplate.parse(text)
    for suffix in template.suffixes:
        match = template.match(template.name(pair_id, suffix))
        assert match is not None
        assert template.name(match.id, match.suffix) == template.name(pair_id, suffix)
        if suffix:
            assert (match.id, match.suffix) == (pair_id, suffix)


def test_the_defaults_are_the_snippets_names_and_jpeg():
    templates = KeyTemplates.parse()
    for name in ("images/a.jpg", "images/a.jpeg", "images/a.JPG", "images/a/b.JPEG"):
        assert templates.match(name)[0] is not None
    for name in ("images/a.png", "Images/a.jpg", "images/.jpg", "images/", "images/a.jpg.bak", "x/images/a.jpg"):
        assert templates.match(name) == (None, None)
    assert templates.match("labels/a.png")[1].id == "a"


@pytest.mark.parametrize("text", ["i/{id}.jpg,jpeg", "i/{id}.jpg,.jpeg", "i/{id}.JPG, JPEG", "i/{id}.jpg,jpeg,jpg"])
def test_extensions_are_a_list_by_preference(text):
    """Behind the last dot of the template."""
    assert KeyTemplate.parse(text).suffixes == (".jpg", ".jpeg")


def test_case_is_ignored_in_the_extension_only():
    template = KeyTemplate.parse("m/{id}_mask.png")
    assert template.match("m/1_mask.PNG").id == "1"
    assert template.match("m/1_MASK.png") is None
    assert template.match("M/1_mask.png") is None


@pytest.mark.parametrize(
    "text",
    ["i/", "i/{id}/{id}.jpg", "/i/{id}.jpg", "i/{id}.", "i/{id}.jpg,", "i/{id},jpg", "i/{id}.a,b/c", "{ID}.jpg"],
)
def test_an_invalid_template_is_refused_with_a_sentence(text):
    with pytest.raises(ConfigError, match="key template"):
        KeyTemplate.parse(text)


def test_templates_that_name_the_same_objects_are_refused():
    with pytest.raises(ConfigError, match="same objects"):
        KeyTemplates.parse("x/{id}.png", "x/{id}.PNG")
    with pytest.raises(ConfigError, match="same objects"):
        KeyTemplates.parse("x/{id}.jpg,png", "x/{id}.png")


def test_the_more_literal_template_wins_an_object():
    templates = KeyTemplates.parse("{id}.png", "{id}_mask.png")
    assert templates.match("a_mask.png")[0] is None
    assert templates.match("a_mask.png")[1].id == "a"
    assert templates.match("a.png")[0].id == "a"


def test_a_prefix_within_another_is_not_listed_twice():
    assert KeyTemplates.parse("{id}.jpg", "labels/{id}.png").listed_prefixes == ("",)
    assert KeyTemplates.parse().listed_prefixes == ("images/", "labels/")
    assert KeyTemplates.parse(DEFAULT_IMAGES, DEFAULT_LABELS).labels.prefix == "labels/"
