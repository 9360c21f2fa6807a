"""`tcaf export`: models for programs that have neither torch nor tcaf."""

from pathlib import Path

from tcaf.commands import printing
from tcaf.commands.terminal import show


def export(
    model: str,
    out: Path,
    *,
    classes: str = "",
    classes_file: Path | None = None,
    vocabulary: Path | None = None,
    page: Path | None = None,
    overwrite: bool = False,
    plugin: Path | None = None,
    json: bool = False,
) -> None:
    """Writes a model as ONNX, or for torch.export, with all that an answer needs beside it.

    Whole clips go in, padded, with masks; distances and probabilities of the classes come out. The
    folder then holds the model, a second graph from class text to what clips are compared with,
    which adds classes, and classes.json (the classes, gamma, temperature, what the features are).
    A folder is for one model.

    Args:
        model: folder of a run, a model file, or a ready model (`tcaf models`), as in imagenet.
        out: file to write: what ends in .onnx runs on onnxruntime, in .pt2 in torch without tcaf.
        classes: names to choose from, by default those of the run, as in "cat purring, dog
            barking"; a semicolon anywhere makes semicolons the separators.
        classes_file: the same as a file, one name a line, or a table with a column class or name.
        vocabulary: a file of further names, in the same form, whose text embeddings are written
            to vocabulary.json, so that others can add them as classes.
        page: also make a static page in this folder, which classifies features in a browser,
            offline; npm fetches onnxruntime-web for it.
        overwrite: replace an export of the same name, or a page, that is there already.
        plugin: the Python file that registers the run's system, if that is one of your own.
        json: print the result as JSON.
    """
    from tcaf.answers.clips import choose_classes
    from tcaf.answers.mixture import open_classifier
    from tcaf.export.bundle import check_out, export_model
    from tcaf.export.page import check_page, write_page
    from tcaf.text.candidates import read_names

    check_out(out, overwrite=overwrite)
    if page is not None:
        check_page(page, overwrite=overwrite)
    classifier = open_classifier(model, plugin, device="cpu")
    choose_classes(classifier, classes, classes_file)
    names = [] if vocabulary is None else read_names(vocabulary)
    made = export_model(classifier, out, vocabulary=names, overwrite=overwrite)
    if page is not None:
        write_page(made, page, overwrite=overwrite)
    value = {
        "path": str(out),
        "files": {name: len(content) for name, content in made.files.items()},
        "page": None if page is None else str(page),
        **made.description,
    }
    show(value, printing.print_export, json)
