"""Chats as text: a model's own template, which comes from a stranger's file, rendered where it can reach nothing.

Templates are Jinja, in the dialect of transformers' `apply_chat_template`: `messages`, `tools`, `documents`,
`add_generation_prompt` and the special tokens are there, `raise_exception`, `strftime_now` and `tojson` too.
"""

import copy
import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxformers.errors import InputError

_MARK = "CONTINUE_FINAL_MESSAGE_TAG "


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    special_tokens: Mapping[str, str] | None = None,
    add_generation_prompt: bool = False,
    continue_final_message: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, str]] | None = None,
    **named: Any,
) -> str:
    """One chat as the text its model reads.

    Args:
      template: the Jinja template.
      messages: dicts with "role" and "content", in order.
      special_tokens: such as `{"bos_token": "<s>"}`.
      add_generation_prompt: end with what begins an answer.
      continue_final_message: end within the last message, to go on with it.
      tools: JSON schemas of functions that the model may call.
      documents: dicts with "title" and "text" that it may refer to.
      **named: what else the template asks for.

    Raises:
      InputError: the template is wrong, does what the sandbox forbids, or refuses these messages.

    >>> render_chat("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}", [{"role": "user", "content": "Hi"}])
    '<user>Hi'
    """
    import jinja2

    chat = copy.deepcopy([dict(message) for message in messages])
    if continue_final_message:
        if add_generation_prompt:
            raise InputError(
                "add_generation_prompt begins an answer and continue_final_message goes on with one: give one"
            )
        if not chat or not isinstance(chat[-1].get("content"), str):
            raise InputError("continue_final_message needs a last message whose content is a text")
        final = chat[-1]["content"]
        chat[-1]["content"] = final + _MARK
    given = {**(special_tokens or {}), **named}
    try:
        text = _compiled(template).render(
            messages=chat, tools=tools, documents=documents, add_generation_prompt=add_generation_prompt, **given
        )
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise InputError(f"the chat template cannot render these messages: {error}") from None
    if continue_final_message:
        before, found, after = text.rpartition(_MARK.strip())
        if not found or final.strip() not in before:
            raise InputError("the chat template leaves out the final message, so that it cannot be continued")
        # Where the space after the mark is gone the template has trimmed the message, and what went before is trimmed, too.
        text = before if after.startswith(" ") else before.rstrip()
    return str(text)


@functools.lru_cache(maxsize=32)
def _compiled(template: str) -> Any:
    import jinja2
    import jinja2.ext
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """Marks what an assistant said, for training; here it is rendered and no more."""

        tags = {"generation"}  # noqa: RUF012 (as Jinja wants it)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return jinja2.nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def as_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None,
                sort_keys: bool = False) -> str:  # fmt: skip
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = as_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    try:
        return environment.from_string(template)
    except jinja2.TemplateError as error:
        raise InputError(f"the chat template is no Jinja template: {error}") from None
