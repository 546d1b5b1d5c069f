"""Read the rows of a results file, of an earlier commit as well. Nothing here imports torch."""

MADE = ("date", "command", "git_commit", "hardware", "versions")  # the metadata of a row
RENAMED = {"standing": "outcomes"}  # {key of a row in an earlier file: the key of today}


def rows(content: dict) -> dict[str, dict]:
    """Return the rows of a results file, {name: row}, with the keys of today.

    Earlier files call `outcomes` `standing`, and keep metadata and warnings beside the rows: there
    a warning that begins with a row's name is about that row, any other about every row.
    """
    return {name: _row(name, row, content) for name, row in content["attacks"].items()}


def _row(name: str, row: dict, content: dict) -> dict:
    """Return a row with the keys of today."""
    row = {RENAMED.get(key, key): value for key, value in row.items()}
    if "made" in row:
        return row
    others = [other for other in content["attacks"] if other != name]
    texts = content.get("warnings") or ()
    texts = [text for text in texts if not any(_is_about(text, other) for other in others)]
    made = {key: content.get(key) for key in MADE}
    return row | {"made": made, "warnings": row.get("warnings", texts)}


def _is_about(text: str, name: str) -> bool:
    """Decide whether a warning of an earlier file is about this row."""
    return text.startswith((f"{name}: ", f"{name}, "))
