"""`python -m guided parser|endpoint [options and folders of libFuzzer]`"""

from __future__ import annotations

import sys
from pathlib import Path as File

import atheris

with atheris.instrument_imports(include=["ipsecfast.ike"]):
    from guided import lives, records, targets


def write_first_inputs(target: str, folder: File) -> None:
    """The messages of the simulation's own lives."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        return
    for number in range(len(lives.CONFIGURATIONS)):
        if target == "parser":
            inputs = lives.datagrams(number)
        else:
            inputs = [
                records.encode(state, [records.Record(how | int(response), exchange, first, chain)])
                for at, (exchange, response, first, chain) in enumerate(lives.messages(number))
                for state, how in (((number + 3 * (at % 5)), 32 + 2 * (at % 2)),)
            ]
        for at, data in enumerate(inputs):
            (folder / f"life-{number}-{at}").write_bytes(data)


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
