"""`streamconv smoke`."""

import click


@click.command("smoke")
def command() -> None:
    """x"""
