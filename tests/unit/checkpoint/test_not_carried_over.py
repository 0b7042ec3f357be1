"""What is said of tensors and files that a conversion leaves behind."""

from dataclasses import replace

from header_models import checkpoint_of, experts

from streamconv.checkpoint.not_carried_over import not_carried_over_notes, reading_notes
from streamconv.checkpoint.types import AppliedRename, OtherFile, TensorInfo, UnlistedFile

SOURCE = checkpoint_of(experts("mlp.", 2, 3, 5))
MTP = TensorInfo("mtp.fc.weight", "BF16", (4, 8), "mtp.safetensors", 0, 64)


def test_nothing_is_said_of_a_checkpoint_that_is_read_whole() -> None:
    others = [OtherFile("config.json", 3), OtherFile("streamconv.json", 3, "describes the source")]
    assert list(not_carried_over_notes(SOURCE, others)) == []


def test_files_that_the_index_leaves_out() -> None:
    """With what is in them, and how they are taken along if that is possible."""
    inside = MTP._replace(name=next(iter(SOURCE.tensors)))
    files = [
        UnlistedFile("mtp.safetensors", (MTP,)),
        UnlistedFile("old.safetensors", (MTP, inside)),
        UnlistedFile("broken.safetensors", ()),
    ]
    mtp, old, broken = reading_notes(replace(SOURCE, unlisted=tuple(files)))
    assert "mtp.safetensors" in mtp
    assert "1 tensor, 64 B: mtp.fc.weight (1)" in mtp
    assert "--add-unlisted" in mtp
    assert (
        "the listed files have 1 of its tensors, too, such as mlp.experts.0.gate_proj.weight" in old
    )
    assert "--add-unlisted" not in old
    assert "no tensors can be found" in broken


def test_what_was_read_in_another_way_than_described() -> None:
    read = replace(
        SOURCE,
        added=("mtp.safetensors",),
        unindexed=("a.0.inv_freq", "a.1.inv_freq"),
        renames=(AppliedRename("module.=", 1234),),
    )
    renamed, added, unindexed = reading_notes(read)
    assert renamed.endswith("1,234 names: module.=")
    assert added.endswith("mtp.safetensors")
    assert unindexed.endswith("a.*.inv_freq (2)")


def test_other_files_that_are_not_copied_are_named_by_their_reason() -> None:
    others = [
        *(OtherFile(f"pytorch_model-{k}.bin", 3, "legacy") for k in range(6)),
        OtherFile("optimizer", 3, "3 values of the training run"),
        OtherFile("model.safetensors.index.json", 3, "the index of the source's shards"),
        OtherFile("streamconv-journal-1.jsonl", 3, "the journal of a run"),
        OtherFile("streamconv-journal-1.jsonl/x", 3, "in a folder"),
        OtherFile(".git/", 0, "bookkeeping"),
    ]
    assert list(not_carried_over_notes(SOURCE, others)) == [
        "not carried over: pytorch_model-0.bin, pytorch_model-1.bin, pytorch_model-2.bin, "
        "pytorch_model-3.bin and 2 more: legacy",
        "not carried over: optimizer: 3 values of the training run",
        "not carried over: streamconv-journal-1.jsonl/x: in a folder",
    ]
