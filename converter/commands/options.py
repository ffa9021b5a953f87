"""Options that several commands have."""

from pathlib import Path

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
source_option = click.option(
    "--source", metavar="DIR|REPO[@REV]|pkg:MODULE", help="The original, where it is not the recipe's."
)
path_argument = click.argument("path", metavar="ARTIFACT", type=click.Path(path_type=Path))
out_option = click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("artifacts"),
    metavar="DIR",
    help="Folder of artifacts (default ./artifacts).",
)
# Checked by the corpus reader, so that a missing file and a broken one read the same.
corpus_option = click.option(
    "--corpus", type=click.Path(path_type=Path), metavar="FILE", help="Texts to measure on instead of ours: JSON Lines or text."
)
accept_option = click.option(
    "--accept-license",
    multiple=True,
    metavar="ID",
    help="Take a model whose license, named here, forbids commercial use; may be repeated.",
)
