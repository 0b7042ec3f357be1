"""Plans a conversion of the tensors that have arrived, as if they were a whole checkpoint."""

import re
from collections.abc import Iterable, Mapping

from streamconv.catalog.catalog import Catalog
from streamconv.catalog.families import FORMS, Form
from streamconv.checkpoint.layout_record import LayoutNames
from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import BadCheckpoint, PlanRefused, StreamconvError
from streamconv.options import LazyOptions
from streamconv.planning.build import Outputs, build_outputs
from streamconv.relaying.headers import checkpoint_of
from streamconv.relaying.request import RelayRequest


class PartialConversion:
    """Plans conversions of some tensors of one stream, all of them to the same form."""

    def __init__(self, request: RelayRequest, catalog: Catalog) -> None:
        self._request = request
        self._catalog = catalog
        self._target: Form | None = None

    def plan(
        self,
        form: Form,
        infos: Iterable[TensorInfo],
        stacks: Mapping[str, LayoutNames],
        source: str | None,
    ) -> Outputs:
        """Plan the conversion of a checkpoint that holds some tensors.

        Args:
            form: The form whose names they have.
            infos: The tensors.
            stacks: The layouts that are known already, by the pattern of each stack.
            source: The form or layout of their experts, if the user names it.

        Raises:
            PlanRefused: It is impossible, or leads to another form than earlier plans.
            BadCheckpoint: The tensors do not fit together.
        """
        to = self._request.to
        checkpoint = checkpoint_of(infos, self._request.config, form.name, stacks)
        options: LazyOptions = {"source_layout": source}
        try:
            outputs = build_outputs(checkpoint, self._catalog, to, options, is_part=True)
        except (BadCheckpoint, PlanRefused) as error:
            raise _in_python(error) from None
        names = outputs.target.names
        if to in FORMS:
            self._target = self._target or names
            if names is not self._target:
                raise PlanRefused(
                    f"cannot relay to the form {to!r}: transformers loads such quantized "
                    f"experts under the names of the form {names.name!r} only",
                    f"relay to the form {names.name!r}",
                )
        return outputs


def _in_python(error: StreamconvError) -> StreamconvError:
    """Return an error without options of the command line that have no place here."""
    message, hint = (
        re.sub(r"--from (?!says)(\S+)", r"source='\1'", text).replace(
            "--from says", "`source` says"
        )
        for text in (error.message, error.hint)
    )
    return type(error)(message, "" if "--" in hint else hint)
