"""What an http(s) address sends, for inputs that people give as one; hub files are `checkpoints.files`'s."""

import urllib.error
import urllib.request

from jaxformers.errors import InputError

SECONDS = 30.0  # that a server may be silent


def download(address: str, called: str, most_bytes: int, timeout: float | None = None) -> bytes:
    """The bytes at an address.

    Args:
      address: http(s).
      called: what to call the input in an error.
      most_bytes: what it may hold.
      timeout: seconds that the server may be silent; None means 30.

    Raises:
      InputError: nothing can be fetched there, or more than that.
    """
    request = urllib.request.Request(address, headers={"User-Agent": "jaxformers"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS if timeout is None else timeout) as answer:
            content: bytes = answer.read(most_bytes + 1)
    except urllib.error.HTTPError as error:
        error.close()
        raise InputError(f"{called}: cannot fetch {address[:200]}: {error}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{called}: cannot fetch {address[:200]}: {getattr(error, 'reason', error)}") from None
    if len(content) > most_bytes:
        raise InputError(f"{called}: {address[:200]} sends more than {most_bytes >> 20} MiB, which is too much")
    return content
