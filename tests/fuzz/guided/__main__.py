"""`python -m guided parser|endpoint [options and folders of libFuzzer]`, or `python -m guided heavy`"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path as File

if sys.argv[1:] == ["heavy"]:
    from guided import heavy

    sys.exit(heavy.main())

import atheris

with atheris.instrument_imports(include=["ipsecfast.ike"]):
    from guided import lives, records, targets


def write_first_inputs(target: str, folder: File) -> None:
    """The messages of the simulation's own lives."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        return
    for number in range(len(lives.CONFIGURATIONS)):
        inputs = lives.datagrams(number) if target == "parser" else list(in_every_state(number))
        for at, data in enumerate(inputs):
            (folder / f"life-{number}-{at}").write_bytes(data)


def in_every_state(number: int) -> Iterator[bytes]:
    """Each message of a life in every state of its configuration."""
    for at, (sender, exchange, response, first, chain) in enumerate(lives.messages(number)):
        how = int(response) | (2 if sender == "a" else 0) | (32 if at % 2 else 0)
        for state in range(number, lives.KINDS, len(lives.CONFIGURATIONS)):
            yield records.encode(state, [records.Record(how, exchange, first, chain)])


def main() -> None:
    target, *options = sys.argv[1:]
    folders = [File(o) for o in options if not o.startswith("-")]
    if folders and not folders[0].is_file():
        write_first_inputs(target, folders[0])
    if target == "parser":
        atheris.Setup([sys.argv[0], *options], targets.parser)
    else:
        atheris.Setup(
            [sys.argv[0], *options],
            targets.endpoint,
            custom_mutator=lambda data, size, seed: records.mutate(data, size, seed, atheris.Mutate),
        )
    atheris.Fuzz()


main()
