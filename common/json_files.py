"""Read the JSON files that the scripts write."""

import json

from common.errors import InputError
from common.reading import open_regular
from common.schema import fault, too_deep

LARGEST = 2**28  # bytes; the results of 10,000 images under 50 attacks have a twentieth of it


def read_json(path, right, remedy: str, what: str = ""):
    """Return the content of a JSON file that fits the description `right` (`common.schema`).

    Args:
        path: the file, as the message names it.
        right: the description.
        remedy: what to do where it does not fit, the end of the message.
        what: what the message says before the reason, such as "is no results file: ".

    Raises InputError in one line that names the file and what is wrong: missing, no regular file,
    larger than 256 MiB, no JSON, nested too deep, or the first field that does not fit.
    """
    with open_regular(path, remedy, LARGEST) as file:
        text = file.read()
    try:
        return parsed(text, right)
    except InputError as error:
        raise InputError(f"{path}: {what}{error}; {remedy}") from None


def parsed(text: str | bytes, right):
    """Return the content of a JSON text that fits the description `right`.

    Raises InputError that says why it does not.
    """
    try:
        content = json.loads(text)
        deep = too_deep(content)
    except RecursionError:
        deep = True
    except ValueError:  # no JSON, no UTF-8, or a number of thousands of digits
        raise InputError("is damaged or no JSON file") from None
    if deep:
        raise InputError("is nested too deep")
    if why := fault(content, right):
        raise InputError(why)
    return content
