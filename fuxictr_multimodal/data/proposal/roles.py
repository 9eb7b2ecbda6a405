"""The roles of files and of their key columns."""

from __future__ import annotations

from dataclasses import dataclass, field

from fuxictr_multimodal.config.yaml_files import is_number_as_text
from fuxictr_multimodal.data.proposal.tables import Look
from fuxictr_multimodal.errors import ConfigError


@dataclass
class Roles:
    """What the files and their columns are; names of columns, None where there is no such column.

    Attributes:
        main: the log or the samples; the training samples where there is a file for each split.
        splits: files of the splits by name, where there are such.
        items: the items' file.
        users: the users' file.
        vectors: further files of vectors by item id.
        user: column of users.
        item: column of items.
        label: column of the label.
        time: column of times.
        histories: columns of lists of items, the main one first.
        aligned: columns of lists that belong to the events of a history, by its column.
        behaviour: column with the kind of event.
        checks: what the user should look at, by what it is about.
    """

    main: Look
    splits: dict[str, Look] = field(default_factory=dict)
    items: Look | None = None
    users: Look | None = None
    vectors: list[Look] = field(default_factory=list)
    user: str | None = None
    item: str | None = None
    label: str | None = None
    time: str | None = None
    histories: list[str] = field(default_factory=list)
    aligned: dict[str, list[str]] = field(default_factory=dict)
    behaviour: str | None = None
    checks: dict[str, str] = field(default_factory=dict)

    @property
    def form(self) -> str:
        """`samples`, `log` or `flat`, as in `entry_settings.form_of`."""
        if self.histories or (self.splits and self.items):
            return "samples"
        return "log" if self.user and self.item and not self.splits else "flat"

    def check_names(self) -> None:
        """Refuse key columns that an entry cannot name.

        Raises:
            ConfigError: naming file and column.
        """
        keys = (self.user, self.item, self.label, self.time, self.behaviour, *self.histories)
        for name in (*keys, *(name for names in self.aligned.values() for name in names)):
            if name is not None and not nameable(name):
                raise ConfigError(f"{self.main.name}: an entry cannot name the column {name!r}: rename it in the file")


def nameable(column: str) -> bool:
    """Whether an entry can name a column: a name that is empty or reads like a number is refused."""
    return bool(column) and not is_number_as_text(column)
