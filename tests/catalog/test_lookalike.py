"""A root without pairs: the advice names templates that work, every set of labels that fits, and what cannot be."""

import asyncio
import re

import pytest
from gcs_fixtures import ListedSource

from ringfeedd.catalog.listing import build_catalog
from ringfeedd.catalog.templates import KeyTemplates
from ringfeedd.errors import StartError

UNDECODABLE = ["tif", "tiff", "webp", "bmp", "npy", "xml", "json", "TIF"]


def build(names, *templates):
    return asyncio.run(build_catalog(ListedSource(names), KeyTemplates.parse(*templates)))


def advice_for(names):
    with pytest.raises(StartError, match="No pairs under mem://set") as caught:
        build(names)
    return str(caught.value)


def tree(count, *forms):
    return [form.replace("*", f"{number:04}") for number in range(count) for form in forms]


def town(split, count=8):
    return tree(
        count,
        f"leftImg8bit/{split}/aachen/aachen_*_000019_leftImg8bit.png",
        *(
            f"gtFine/{split}/aachen/aachen_*_000019_gtFine_{kind}"
            for kind in ("color.png", "instanceIds.png", "labelIds.png", "polygons.json")
        ),
    )


VOC = tree(9, "JPEGImages/2007_*.jpg", "Annotations/2007_*.xml") + tree(
    3, "SegmentationClass/2007_*.png", "SegmentationObject/2007_*.png"
)
GT = "gtFine/{id}_gtFine_"
V2 = "training/v2.0/"
LAYOUTS = {
    "VOC": ([*VOC, "ImageSets/Segmentation/train.txt"], "JPEGImages/{id}.jpg",
            ["SegmentationClass/{id}.png", "SegmentationObject/{id}.png"], ["Annotations/*.xml"]),
    "VOC as it unpacks": ([f"VOCdevkit/VOC2012/{name}" for name in VOC], "VOCdevkit/VOC2012/JPEGImages/{id}.jpg",
            [f"VOCdevkit/VOC2012/Segmentation{kind}/{{id}}.png" for kind in ("Class", "Object")],
            ["VOCdevkit/VOC2012/Annotations/*.xml"]),
    "Cityscapes": (town("train") + town("val"), "leftImg8bit/{id}_leftImg8bit.png",
                   [f"{GT}labelIds.png", f"{GT}color.png", f"{GT}instanceIds.png"], [f"{GT}polygons.json"]),
    "Mapillary": (tree(9, "training/images/a*.jpg", *(f"{V2}{kind}/a*.png" for kind in
                       ("instances", "labels", "panoptic")), f"{V2}polygons/a*.json"), "training/images/{id}.jpg",
                  [f"{V2}labels/{{id}}.png", f"{V2}instances/{{id}}.png", f"{V2}panoptic/{{id}}.png"],
                  [f"{V2}polygons/*.json"]),
    "COCO": ([*tree(9, "train2017/*.jpg", "stuffthingmaps/train2017/*.png", "captions/train2017/*.txt"),
              *tree(5, "val2017/*.jpg", "stuffthingmaps/val2017/*.png"), "annotations/instances_train2017.json"],
             "train2017/{id}.jpg", ["stuffthingmaps/train2017/{id}.png"], ["captions/train2017/*.txt"]),
    "ADE20K": (tree(9, "images/training/ADE_train_*.jpg", "annotations/training/ADE_train_*.png"),
               "images/{id}.jpg", ["annotations/{id}.png"], []),
    "CamVid": (tree(9, "701_StillsRaw_full/0016E5_*.png", "LabeledApproved_full/0016E5_*_L.png",
                    "LabeledApproved_full/0016E5_*_P.png"), "701_StillsRaw_full/{id}.png",
               ["LabeledApproved_full/{id}_L.png", "LabeledApproved_full/{id}_P.png"], []),
    "one folder": (tree(9, "*.png", "*_L.png"), "{id}.png", ["{id}_L.png"], []),
    "tails": (tree(9, "train/*_sat.jpg", "train/*_mask.png"), "train/{id}_sat.jpg", ["train/{id}_mask.png"], []),
    "heads": (tree(9, "imgs/img_*.jpg", "masks/mask_*.png"), "imgs/img_{id}.jpg", ["masks/mask_{id}.png"], []),
    "spellings": (tree(5, "images/a*.JPG", "masks/a*.PNG") + tree(9, "images/b*.jpeg", "masks/b*.PNG"),
                  "images/{id}.jpeg,jpg", ["masks/{id}.PNG"], []),
    "capitals": (tree(9, "train/x/*.PNG", "train/label/*_gt.png"), "train/x/{id}.PNG",
                 ["train/label/{id}_gt.png"], []),
    "flat": (tree(9, "*.jpg", "*.png"), "{id}.jpg", ["{id}.png"], []),
    "parts with the same ids": (tree(9, *(f"s{n}/{kind}/*.png" for n in range(3) for kind in ("rgb", "semantic"))),
                                "s0/rgb/{id}.png", ["s0/semantic/{id}.png"], []),
    "heads in parts": (tree(9, "train/a*.png", "train_labels/a*_L.png") + tree(4, "val/v*.png", "val_labels/v*_L.png"),
                       "train/{id}.png", ["train_labels/{id}_L.png"], []),
    "JPEG masks": (tree(9, "imgs/*.jpg", "masks/*.jpg"), "imgs/{id}.jpg", ["masks/{id}.jpg"], []),
    "ADE20K whole": (tree(9, *(f"images/ADE/training/street/ADE_*{end}" for end in
                               (".jpg", "_seg.png", "_parts_1.png", ".json"))), "images/{id}.jpg",
                     ["images/{id}_seg.png", "images/{id}_parts_1.png"], ["images/*.json"]),
    "KITTI": (tree(9, *(f"training/{kind}/*_10.png" for kind in ("image_2", "semantic", "instance"))),
              "training/image_2/{id}.png", ["training/semantic/{id}.png", "training/instance/{id}.png"], []),
    "ids before colours": (tree(9, "train/P*.png", "train/P*_instance_color_RGB.png", "train/P*_instance_id_RGB.png"),
                           "train/{id}.png", ["train/{id}_instance_id_RGB.png", "train/{id}_instance_color_RGB.png"],
                           []),
    "videos and masks": (tree(9, "frames/*.jpg", "masks/*.png", "flow/*.npy", "small/frames/*.jpg"),
                         "frames/{id}.jpg", ["masks/{id}.png"], ["flow/*.npy"]),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_template_in_the_advice_works(layout):
    names, images, labels, others = LAYOUTS[layout]
    advice = advice_for(names)
    assert re.findall("--images '([^']*)'", advice) == [images]
    assert re.findall("--labels '([^']*)'", advice) == labels
    for template in labels:
        catalog = build(names, images, template)
        assert len(catalog) > 0
        assert catalog.pair(0).image.name.lower().endswith((".jpg", ".jpeg", ".png"))
    for other in others:
        assert f"`{other.replace('{id}', '*')}`" in advice.partition("not decodable")[2]


@pytest.mark.parametrize("extension", UNDECODABLE)
def test_undecodable_labels_are_named_and_not_proposed(extension):
    advice = advice_for(tree(9, "img/*.jpg", f"masks/*.{extension}"))
    assert "--labels" not in advice
    assert f"`masks/*.{extension}` cannot be decoded" in advice
    advice = advice_for([*tree(90, "img/*.jpg", f"masks/*.{extension}"), "thumbs/0001.png"])
    assert "--labels" not in advice, "for one stray picture of ninety"


@pytest.mark.parametrize(
    "names",
    [
        tree(9, "train/*.jpg", "val/*.jpg"),
        tree(9, "images/train/train*.jpg", "images/val/val*.jpg"),
        tree(9, "a/*.png", "b/*.png"),
        tree(9, "images/train/train*.jpg", "labels/train/train*.txt", "images/val/val*.jpg", "labels/val/val*.txt"),
    ],
)
def test_sides_that_look_alike_are_not_proposed(names):
    """Two parts of a set whose files are numbered have the same ids, and are images both."""
    assert "pass --images" not in advice_for(names)


def test_undecodable_images_are_named_and_not_proposed():
    advice = advice_for(tree(9, "images/a/*.webp", "labels/a/*.png"))
    assert "--images" not in advice
    assert "`images/*.webp` cannot be decoded" in advice


def test_parts_that_would_be_served_together_are_named():
    assert "serves the folders train, val together" in advice_for(town("train") + town("val"))
    assert "together" not in advice_for(town("train"))


@pytest.mark.parametrize(("one", "other"), [("train", "val"), ("b", "a"), ("sets/2019", "sets/2020")])
def test_other_folders_of_such_pairs_are_named(one, other):
    names = [
        *tree(7, f"{one}/images/*.jpg", f"{one}/labels/*.png"),
        *tree(5, f"{other}/images/*.jpg", f"{other}/labels/*.png", "third/images/*.jpg"),
    ]
    advice = advice_for(names)
    assert f"pass --images '{one}/images/{{id}}.jpg' --labels '{one}/labels/{{id}}.png'." in advice
    assert f" Such pairs are also in {other}/: serve each folder by itself." in advice


def test_the_sentence_counts_what_it_found():
    names = [f"{d}/{n:03}.{e}" for n in range(300) for d, e in (("img", "jpeg"), ("masks", "png"))]
    assert advice_for(names) == (
        "No pairs under mem://set: found 300 objects like `img/*.jpeg` and 300 like `masks/*.png`; "
        "pass --images 'img/{id}.jpeg' --labels 'masks/{id}.png'."
    )


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "there is nothing in it"),
        (["images/a.jpg", "labels/b.png"], "found 1 images without a label, 1 labels without an image"),
        (["readme.txt"], "1 objects like `*.txt`"),
        (["\udcff.jpg", "x y.png"], "objects like"),
        (["images/readme"], "1 objects like `images/*`"),
    ],
)
def test_without_a_layout_the_sentence_lists_what_exists(names, says):
    assert says in advice_for(names)


def test_many_objects_are_compared_by_a_sample():
    names = tree(9000, "gt/*_color.png", "gt/*_labelIds.png", "rgb/*.png", "poly/*.json")
    advice = advice_for(names)
    assert "--images 'rgb/{id}.png' --labels 'gt/{id}_labelIds.png', or --labels 'gt/{id}_color.png'" in advice
    assert "9,000 like `poly/*.json`" in advice
