"""Uploads an exported folder to the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError

from clkit.errors import ClkitError, UsageError, first_line


@dataclass(frozen=True)
class Repository:
    """A repository of the hub that is there to be uploaded to."""

    name: str

    @classmethod
    def reserve(cls, name: str, *, public: bool) -> Repository:
        """Make the repository, unless it is there, so that whatever stands against it is known before any work.

        Raises:
            UsageError: the name is none, or the repository is there and public, and ``public`` is not wanted.
            ClkitError: the hub cannot be reached or refuses.
        """
        with _explained(f"--push: '{name}' cannot be made on the hub"):
            made = HfApi().create_repo(name, private=not public, exist_ok=True).repo_id
            seen_by_all = not HfApi().model_info(made).private
        if seen_by_all and not public:
            raise UsageError(
                f"--push: '{made}' is there and everyone can see it; add --public if they may see this too"
            )
        return cls(made)

    def upload(self, folder: Path) -> None:
        """Upload the folder.

        Raises:
            ClkitError: it failed; the folder is there for another try.
        """
        with _explained(f"'{folder}' is written, but not uploaded; try again with `hf upload {self.name} {folder}`"):
            HfApi().upload_folder(repo_id=self.name, folder_path=folder, commit_message="Exported with clkit")


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except HFValidationError as error:
        raise UsageError(f"--push: {first_line(error)}") from error
    except Exception as error:  # no narrower: of the hub, of its many libraries and of the network
        raise ClkitError(f"{what} ({first_line(error)})") from error
