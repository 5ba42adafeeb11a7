"""Columns are known by their names: in another order their numbers would mean something else."""

__all__ = ["check_columns"]

LISTED = 20  # longer lists of columns are not shown in an error


def check_columns(
    trained: dict[str, tuple[str, ...]], found: dict[str, tuple[str, ...]], name: str
) -> None:
    """Refuse named columns that are not those of training, in their order; columns without names
    are as they are.

    Args:
        trained: Names by "x" and "context" of what was trained on.
        found: Names of what is given now.
        name: What was trained, for the message.

    Raises:
        ValueError: The names, or their order, differ; the first that does is named.

    Example:
        >>> check_columns({"x": ("a", "b")}, {"x": ("b", "a")}, "Model")
        Traceback (most recent call last):
        ValueError: column 0 of x is 'b'; where the Model was trained 'a' is there: give x[['a', 'b']]
    """
    for what, names in trained.items():
        given = found.get(what, names)
        if given == names:
            continue
        order = (
            f"{what}[{list(names)}]"
            if len(names) <= LISTED
            else f'{what}[list(model.columns["{what}"])]'
        )
        lacking = [each for each in names if each not in given]
        if lacking:
            raise ValueError(
                f"{what} has no column {lacking[0]!r}, which the {name} was trained with: give "
                f"{order}"
            )
        place = next(
            (i for i, pair in enumerate(zip(given, names, strict=False)) if pair[0] != pair[1]),
            len(names),
        )
        there = f"{names[place]!r} is there" if place < len(names) else "there is none"
        raise ValueError(
            f"column {place} of {what} is {given[place]!r}; where the {name} was trained {there}: "
            f"give {order}"
        )
