"""Coverage-guided fuzzing of IKE with atheris: of the parser, and of the state machine by a peer that holds the keys.

    ci/fuzz                                     both, a while each
    python -m guided endpoint -max_total_time=600 build/fuzz/endpoint
    python -m guided endpoint build/fuzz/crash-...      one input again

    python -m guided heavy                      the longest messages, and what each costs

The first inputs are the messages of the simulation's own lives (`lives.py`), in every state. A pair of gateways in a
state is made once and then put back in place before each input (`rewind.py`): hundreds of inputs a second.
"""
