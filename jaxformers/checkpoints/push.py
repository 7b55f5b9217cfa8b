"""To the Hugging Face hub: a model with its config and tokenizer in one call. Uploads while a run goes on: `train.hub`."""

import tempfile
from pathlib import Path
from typing import Any

from jaxformers.checkpoints.save import save, write_text
from jaxformers.errors import InputError
from jaxformers.families import Model

CARD = """---
library_name: jaxformers
tags: [jax, jaxformers]
---

# {name}

{architecture}, written by jaxformers. `jf.load("{repo}", head={head!r})` reads it, and so does PyTorch transformers.
"""


def push_to_hub(
    model: Model,
    repo: str,
    tokenizer: Any = None,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    message: str = "Upload the model",
) -> str:
    """Uploads a model in Hugging Face layout, with its tokenizer and, where the repository has none, a short card.

    Args:
      model: what to upload.
      repo: NAME/MODEL, or MODEL under the token's owner; made if it is not there.
      tokenizer: as for `save`.
      private: whether the repository, if it is new, is private.
      token: by default HF_TOKEN or that of `hf auth login`.
      revision: the branch; the default one where it is not given.
      message: of the commit.

    Returns:
      The commit's address.

    Raises:
      InputError: no token, no access, or no network; the sentence says which.
    """
    api, name = open_repository(repo, token, private, revision)
    with tempfile.TemporaryDirectory() as folder:
        save(model, folder, tokenizer)
        try:
            if "README.md" not in api.list_repo_files(name, revision=revision):
                architecture = model.family.architectures[model.head]
                card = CARD.format(name=name.split("/")[-1], architecture=architecture, repo=name, head=model.head)
                write_text(Path(folder) / "README.md", card)
            done = api.upload_folder(repo_id=name, folder_path=folder, commit_message=message, revision=revision)
        except Exception as error:  # requests', httpx's and the hub's own: what matters is that it is told
            raise InputError(f"cannot push to the hub repository {name!r}: {first_line(error)}") from None
    return str(done.commit_url)


def open_repository(name: str, token: str | None, private: bool | None, revision: str | None) -> tuple[Any, str]:
    """The hub's API and a repository's full name; the repository and the branch are made where they are not there.

    Raises:
      InputError: no token, no access, or no network; the sentence says which.
    """
    import huggingface_hub as hub

    token = token or hub.get_token()
    if not token:
        raise InputError("push_to_hub needs a token: set HF_TOKEN, or log in with `hf auth login`")
    api = hub.HfApi(token=token)
    try:
        repo = api.create_repo(name, private=private, exist_ok=True).repo_id
        if revision:
            api.create_branch(repo, branch=revision, exist_ok=True)
    except Exception as error:  # as above
        raise InputError(f"cannot push to the hub repository {name!r}: {first_line(error)}") from None
    return api, repo


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
