"""What transformers needs for the same as `streamconv convert --to transformers`: load, save.

The model is built whole in memory; `save_original_format=False` writes the experts fused, as it
holds them.
"""

import argparse
from pathlib import Path

from transformers import AutoModelForCausalLM


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Load a checkpoint and save it fused.")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(args.source, dtype="auto")
    model.save_pretrained(args.target, save_original_format=False)


if __name__ == "__main__":
    main()
