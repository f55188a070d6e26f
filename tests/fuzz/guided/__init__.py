"""Coverage-guided fuzzing of IKE with atheris: of the parser, and of the state machine by a peer that holds the keys.

    ci/fuzz                                     both, a while each
    python -m guided endpoint -max_total_time=600 build/fuzz/endpoint
    python -m guided endpoint build/fuzz/crash-...      one input again

The first inputs are the messages of the simulation's own lives (`lives.py`).
"""
